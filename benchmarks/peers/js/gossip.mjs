// Some of js-libp2p's gossipsub nodes in one process: the lines of bzzz_gossip.py.

import { createInterface } from 'node:readline'

import { createNode, now, say } from './node.mjs'

import { multiaddr } from '@multiformats/multiaddr'

const TOPIC = 'bench'
const HEAD = 12

const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))

const nodes = []
const own = new Set()
let latencies = []
let last = 0
let number = 0
// How many nodes of this process each of its own messages has still to reach.
const outstanding = new Map()
let room

function delivered (node, { detail }) {
  const origin = detail.from.toString()
  if (detail.topic !== TOPIC || origin === node.peerId.toString()) {
    return
  }
  const arrived = now()
  last = arrived / 1000
  const head = Buffer.from(detail.data.buffer, detail.data.byteOffset, HEAD)
  latencies.push(arrived - head.readDoubleBE(0) * 1000)
  if (own.has(origin)) {
    const message = head.readUInt32BE(8)
    const left = outstanding.get(message) - 1
    if (left > 0) {
      outstanding.set(message, left)
    } else {
      outstanding.delete(message)
      room?.()
    }
  }
}

function publish (size) {
  const node = nodes[number % nodes.length]
  number++
  if (nodes.length > 1) {
    outstanding.set(number, nodes.length - 1)
  }
  const data = Buffer.alloc(size)
  data.writeDoubleBE(now() / 1000, 0)
  data.writeUInt32BE(number, 8)
  node.services.pubsub.publish(TOPIC, data).catch(error => console.error(error))
}

const commands = {
  async dial ({ pairs }) {
    for (const [index, address] of pairs) {
      await nodes[index].dial(multiaddr(address))
    }
    return { dialled: pairs.length }
  },
  async ready ({ peers }) {
    for (const node of nodes) {
      while (node.services.pubsub.getSubscribers(TOPIC).length < peers) {
        await sleep(50)
      }
    }
    return { ready: peers }
  },
  async publish ({ count, interval, delay, size }) {
    await sleep(delay * 1000)
    const start = now()
    for (let index = 0; index < count; index++) {
      await sleep(Math.max(0, start + index * interval * 1000 - now()))
      publish(size)
    }
    return { sent: count }
  },
  async flood ({ seconds, window, size }) {
    const first = now()
    let sent = 0
    while (now() < first + seconds * 1000) {
      if (outstanding.size >= window) {
        await new Promise(resolve => { room = resolve })
      }
      publish(size)
      sent++
      // Let what has arrived be read.
      await new Promise(resolve => setImmediate(resolve))
    }
    return { sent, first: first / 1000 }
  },
  async report () {
    const ms = latencies
    latencies = []
    return { delivered: ms.length, ms, last }
  }
}

for (let index = 0; index < Number(process.argv[2]); index++) {
  const node = await createNode({ listen: ['/ip4/127.0.0.1/tcp/0'], gossip: true })
  node.services.pubsub.addEventListener('message', event => delivered(node, event))
  node.services.pubsub.subscribe(TOPIC)
  own.add(node.peerId.toString())
  nodes.push(node)
}
say({ addresses: nodes.map(node => node.getMultiaddrs()[0].toString()) })
const lines = createInterface({ input: process.stdin })
lines.on('line', line => {
  const { do: name, ...rest } = JSON.parse(line)
  commands[name](rest).then(say, error => { console.error(error); process.exit(1) })
})
lines.on('close', () => process.exit(0))
