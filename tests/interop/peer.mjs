// A libp2p peer on a string: reads one JSON command a line on stdin, answers each on stdout.
//
//   {"id": 7, "do": "dial", "addr": "/ip4/..."}  ->  {"id": 7, "ok": {...}} or {"id": 7, "error": "..."}
//
// What happens without being asked comes as {"event": "...", ...}. It ends with its stdin.

import './polyfill.mjs'

import { createHash } from 'node:crypto'
import { createInterface } from 'node:readline'

import { peerIdFromString } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'

import { createNode, onlyInterface } from './node.mjs'

const ECHO = '/interop/echo/1.0.0'
const SINK = '/interop/sink/1.0.0'
const SOURCE = '/interop/source/1.0.0'

// A slow reader reads nothing at first, so that the sender's window fills, then this much at a time.
const SLOW_START_MS = 500
const SLOW_BYTES = 256 * 1024
const SLOW_PAUSE_MS = 10

let node

function say (message) {
  process.stdout.write(JSON.stringify(message) + '\n')
}

const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))

// Bytes of which no two pieces are alike: 32-bit counters, big-endian.
function * counters (size) {
  let next = 0
  for (let left = size; left > 0;) {
    const piece = new DataView(new ArrayBuffer(Math.min(left, 65536)))
    for (let at = 0; at < piece.byteLength; at += 4) {
      piece.setUint32(at, next++)
    }
    left -= piece.byteLength
    yield new Uint8Array(piece.buffer)
  }
}

async function digest (source, slow) {
  const hash = createHash('sha256')
  let bytes = 0
  let unpaused = 0
  if (slow) {
    await sleep(SLOW_START_MS)
  }
  for await (const chunk of source) {
    for (const part of chunk instanceof Uint8Array ? [chunk] : chunk) {
      hash.update(part)
    }
    bytes += chunk.byteLength
    unpaused += chunk.byteLength
    if (slow && unpaused >= SLOW_BYTES) {
      unpaused = 0
      await sleep(SLOW_PAUSE_MS)
    }
  }
  return { bytes, sha256: hash.digest('hex') }
}

async function all (source) {
  const parts = []
  for await (const chunk of source) {
    parts.push(chunk.subarray())
  }
  return Buffer.concat(parts)
}

const answer = {
  // Sends back what comes.
  echo: [ECHO, ({ stream }) => stream.sink(stream.source)],
  // Reads to the end, slowly, then tells what it was.
  sink: [SINK, async ({ stream }) => {
    const got = await digest(stream.source, true)
    await stream.sink([Buffer.from(JSON.stringify(got))])
    say({ event: 'sunk', ...got })
  }],
  // Reads a size in decimal up to the end, then sends as many bytes.
  source: [SOURCE, async ({ stream }) => {
    const size = Number((await all(stream.source)).toString())
    await stream.sink(counters(size))
  }]
}

function told (connection) {
  return {
    peer: connection.remotePeer.toString(),
    addr: connection.remoteAddr.toString(),
    direction: connection.direction,
    encryption: connection.encryption,
    muxer: connection.multiplexer
  }
}

function linked (peer) {
  const [connection] = node.getConnections(peerIdFromString(peer))
  if (connection == null) {
    throw new Error(`no connection to ${peer}`)
  }
  return connection
}

// js-libp2p opens one stream at a time for identify and for ping. On a new connection it asks by
// itself who the peer is, and a ping's stream is there until its end was heard of.
async function alone (ask) {
  for (;;) {
    try {
      return await ask()
    } catch (error) {
      if (error.name !== 'TooManyOutboundProtocolStreamsError') {
        throw error
      }
      await sleep(20)
    }
  }
}

const commands = {
  async start ({ listen = ['/ip4/127.0.0.1/tcp/0'], networkInterface, ...options }) {
    if (networkInterface != null) {
      onlyInterface(networkInterface)
    }
    node = await createNode({ listen, ...options })
    node.addEventListener('peer:discovery', ({ detail }) => {
      const addrs = detail.multiaddrs.map(String)
      say({ event: 'discovered', peer: detail.id.toString(), addrs })
    })
    node.addEventListener('connection:open', ({ detail }) => say({ event: 'open', ...told(detail) }))
    node.addEventListener('connection:close', ({ detail }) => say({ event: 'close', ...told(detail) }))
    node.services.pubsub.addEventListener('message', ({ detail }) => {
      const data = Buffer.from(detail.data).toString('base64')
      say({ event: 'message', type: detail.type, from: detail.from?.toString(), topic: detail.topic, data })
    })
    for (const [protocol, how] of Object.values(answer)) {
      await node.handle(protocol, arrived => {
        Promise.resolve(how(arrived)).catch(error => arrived.stream.abort(error))
      })
    }
    return { peer: node.peerId.toString(), addrs: node.getMultiaddrs().map(String) }
  },
  async dial ({ addr }) {
    return told(await node.dial(multiaddr(addr)))
  },
  async identify ({ peer }) {
    const got = await alone(() => node.services.identify.identify(linked(peer)))
    return {
      agent: got.agentVersion,
      version: got.protocolVersion,
      protocols: got.protocols,
      addrs: got.listenAddrs.map(String),
      observed: got.observedAddr?.toString()
    }
  },
  async ping ({ peer }) {
    return { ms: await alone(() => node.services.ping.ping(peerIdFromString(peer))) }
  },
  async links () {
    return node.getConnections().map(told)
  },
  async subscribe ({ topic }) {
    node.services.pubsub.subscribe(topic)
    return {}
  },
  async subscribers ({ topic }) {
    return node.services.pubsub.getSubscribers(topic).map(String)
  },
  async publish ({ topic, data }) {
    const { recipients } = await node.services.pubsub.publish(topic, Buffer.from(data, 'base64'))
    return { recipients: recipients.map(String) }
  },
  async echo ({ peer, data }) {
    const stream = await linked(peer).newStream(ECHO)
    const [got] = await Promise.all([all(stream.source), stream.sink([Buffer.from(data, 'base64')])])
    return { data: got.toString('base64') }
  },
  // Sends `bytes` to the peer's sink and returns what it says it got.
  async send ({ peer, bytes }) {
    const stream = await linked(peer).newStream(SINK)
    const [said, sent] = await Promise.all([
      all(stream.source),
      digest(counters(bytes), false),
      stream.sink(counters(bytes))
    ])
    return { sent, got: JSON.parse(said.toString()) }
  },
  // Asks the peer's source for `bytes`, reads them slowly and returns what came.
  async receive ({ peer, bytes }) {
    const stream = await linked(peer).newStream(SOURCE)
    await stream.sink([Buffer.from(String(bytes))])
    return digest(stream.source, true)
  },
  async hangup ({ peer }) {
    await node.hangUp(peerIdFromString(peer))
    return {}
  },
  async stop () {
    await node?.stop()
    return {}
  }
}

const lines = createInterface({ input: process.stdin })
lines.on('line', line => {
  const { id, do: name, ...rest } = JSON.parse(line)
  const command = commands[name]
  const done = command == null ? Promise.reject(new Error(`no command ${name}`)) : command(rest)
  done.then(ok => say({ id, ok }), error => say({ id, error: `${error.name}: ${error.message}` }))
})
lines.on('close', () => {
  const end = () => process.exit(0)
  setTimeout(end, 2000).unref()
  Promise.resolve(node?.stop()).then(end, end)
})
