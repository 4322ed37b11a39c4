// js-libp2p as it comes, with its own limits of connections, and with identify and ping: prints its
// address, and ends with its stdin.

import './polyfill.mjs'

import { say } from './node.mjs'

import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { createLibp2p } from 'libp2p'

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping() }
})
say({ address: node.getMultiaddrs()[0].toString() })
process.stdin.on('end', () => process.exit(0))
process.stdin.resume()
