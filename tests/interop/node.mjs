// A js-libp2p node with what Bzzz speaks: TCP, Noise, yamux, identify, ping, gossipsub, mDNS.
// Tests drive it through peer.mjs; benchmarks import it.

import './polyfill.mjs'

import os from 'node:os'

import { gossipsub } from '@chainsafe/libp2p-gossipsub'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify, identifyPush } from '@libp2p/identify'
import { mdns } from '@libp2p/mdns'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { createLibp2p } from 'libp2p'

// Have this process know no other interface. The mDNS module has no such setting: it joins the
// group on whatever os.networkInterfaces() lists, and tests may speak on `lo` only.
export function onlyInterface (name) {
  const all = os.networkInterfaces.bind(os)
  os.networkInterfaces = () => ({ [name]: all()[name] ?? [] })
}

// Noise that offers no muxers in its handshake, so that one is negotiated after it.
function noiseWithoutMuxers () {
  return components => {
    const made = noise()(components)
    const bare = options => ({ ...options, skipStreamMuxerNegotiation: true })
    const { secureInbound, secureOutbound } = made
    made.secureInbound = (connection, options) => secureInbound.call(made, connection, bare(options))
    made.secureOutbound = (connection, options) => secureOutbound.call(made, connection, bare(options))
    return made
  }
}

// options: listen (multiaddrs), serviceTag (mDNS is off without it), gossip (options; null for none),
// earlyMuxer (whether muxers are offered in the Noise handshake)
export async function createNode ({ listen = [], serviceTag, gossip = {}, earlyMuxer = true } = {}) {
  return createLibp2p({
    addresses: { listen },
    transports: [tcp()],
    connectionEncrypters: [earlyMuxer ? noise() : noiseWithoutMuxers()],
    streamMuxers: [yamux()],
    peerDiscovery: serviceTag == null ? [] : [mdns({ serviceTag, interval: 1000 })],
    connectionManager: {
      // The defaults refuse most of 50 dials that come at once from one address.
      inboundConnectionThreshold: 10000,
      maxIncomingPendingConnections: 1000
    },
    connectionMonitor: { enabled: false },
    nodeInfo: { userAgent: 'js-libp2p-interop/1' },
    services: {
      identify: identify(),
      identifyPush: identifyPush(),
      ping: ping(),
      ...(gossip == null
        ? {}
        : {
            pubsub: gossipsub({
              globalSignaturePolicy: 'StrictSign',
              allowPublishToZeroTopicPeers: true,
              // Every peer of a test has the same address, which the default score punishes.
              scoreParams: { IPColocationFactorWeight: 0 },
              ...gossip
            })
          })
    }
  })
}
