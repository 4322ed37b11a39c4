// A js-libp2p node as the benchmarks want it: TCP, Noise, yamux, identify, ping, perhaps gossipsub.

import './polyfill.mjs'

import { gossipsub } from '@chainsafe/libp2p-gossipsub'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { createLibp2p } from 'libp2p'

export async function createNode ({ listen = [], gossip = false } = {}) {
  return createLibp2p({
    addresses: { listen },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    connectionManager: {
      // The defaults refuse most of 50 dials that come at once from one address.
      inboundConnectionThreshold: 100000,
      maxIncomingPendingConnections: 1000,
      maxConnections: 1000
    },
    connectionMonitor: { enabled: false },
    services: {
      identify: identify({ maxInboundStreams: 1000, maxOutboundStreams: 1000 }),
      ping: ping({ maxInboundStreams: 100, maxOutboundStreams: 100 }),
      ...(gossip
        ? {
            pubsub: gossipsub({
              globalSignaturePolicy: 'StrictSign',
              allowPublishToZeroTopicPeers: true,
              // Every peer has the same address, which the default score punishes.
              scoreParams: { IPColocationFactorWeight: 0 }
            })
          }
        : {})
    }
  })
}

// CPU seconds of this process.
export function cpu () {
  const { userCPUTime, systemCPUTime } = process.resourceUsage()
  return (userCPUTime + systemCPUTime) / 1e6
}

export function say (message) {
  process.stdout.write(JSON.stringify(message) + '\n')
}

// Milliseconds of CLOCK_MONOTONIC, which every process of the machine shares.
export function now () {
  return Number(process.hrtime.bigint()) / 1e6
}

export function percentile (sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]
}
