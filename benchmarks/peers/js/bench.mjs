// js-libp2p as one end of the link benchmarks: the modes and the JSON of bzzz_peer.py.

import { createNode, cpu, now, percentile, say } from './node.mjs'

import { multiaddr } from '@multiformats/multiaddr'

const SINK = '/bench/sink/1.0.0'
const ECHO = '/bench/echo/1.0.0'
const PING = '/ipfs/ping/1.0.0'
const MANY = { maxInboundStreams: 10000, maxOutboundStreams: 10000 }

function stdinEnd () {
  return new Promise(resolve => {
    process.stdin.on('end', resolve)
    process.stdin.resume()
  })
}

// A queue that a stream's sink reads, so that one can write step by step.
function pushable () {
  const queue = []
  let wake
  let ended = false
  return {
    push (data) { queue.push(data); wake?.() },
    end () { ended = true; wake?.() },
    async * [Symbol.asyncIterator] () {
      for (;;) {
        if (queue.length > 0) {
          yield queue.shift()
        } else if (ended) {
          return
        } else {
          await new Promise(resolve => { wake = resolve })
        }
      }
    }
  }
}

async function sink ({ stream }) {
  const answer = pushable()
  stream.sink(answer).catch(() => {})
  let head = Buffer.alloc(0)
  let count = 0
  let expected = Infinity
  for await (const chunk of stream.source) {
    let size = chunk.byteLength
    if (head.length < 8) {
      const before = head.length
      head = Buffer.concat([head, Buffer.from(chunk.subarray()).subarray(0, 8 - before)])
      size -= head.length - before
      if (head.length === 8) {
        expected = Number(head.readBigUInt64BE())
      }
    }
    count += size
    if (count >= expected) {
      answer.push(Buffer.from('!'))
      answer.end()
      expected = Infinity
    }
  }
}

async function serve () {
  const node = await createNode({ listen: ['/ip4/127.0.0.1/tcp/0'], gossip: true })
  await node.handle(SINK, arrived => sink(arrived).catch(() => {}), MANY)
  await node.handle(ECHO, ({ stream }) => stream.sink(stream.source).catch(() => {}), MANY)
  say({ address: node.getMultiaddrs()[0].toString() })
  const start = cpu()
  await stdinEnd()
  say({ cpu: cpu(), start_cpu: start })
}

// One dial, up to muxed and identified. js-libp2p identifies each new connection by itself.
async function dialOnce (node, address) {
  const identified = new Promise(resolve => {
    node.addEventListener('peer:identify', resolve, { once: true })
  })
  const connection = await node.dial(address)
  await identified
  return connection
}

// The nodes are made beforehand, as making one costs more than a dial. One after the other it is the
// same node again; at once each needs an identity of its own, or the dials would share a link.
async function dials (address, count, together) {
  const nodes = await Promise.all(
    Array.from({ length: together ? count : 1 }, () => createNode())
  )
  const startCpu = cpu()
  const start = now()
  if (together) {
    await Promise.all(nodes.map(node => dialOnce(node, address)))
  } else {
    for (let index = 0; index < count; index++) {
      const connection = await dialOnce(nodes[0], address)
      connection.abort(new Error('measured'))
    }
  }
  const wall = now() - start
  return { per_second: count * 1000 / wall, client_cpu_ms: (cpu() - startCpu) * 1000 / count }
}

function spread (times) {
  times.sort((a, b) => a - b)
  return { p50_ms: percentile(times, 0.5), p99_ms: percentile(times, 0.99) }
}

// One stream for all of them, as Bzzz and go-libp2p do; js's own ping() opens one for each.
async function ping (connection, count) {
  const stream = await connection.newStream(PING)
  const out = pushable()
  stream.sink(out).catch(() => {})
  const source = stream.source[Symbol.asyncIterator]()
  const times = []
  for (let index = 0; index < count; index++) {
    const data = crypto.getRandomValues(new Uint8Array(32))
    const start = now()
    out.push(data)
    for (let got = 0; got < 32;) {
      got += (await source.next()).value.byteLength
    }
    times.push(now() - start)
  }
  out.end()
  await stream.close().catch(() => {})
  return spread(times)
}

async function streams (connection, count) {
  const times = []
  for (let index = 0; index < count; index++) {
    const start = now()
    const stream = await connection.newStream(ECHO, MANY)
    const out = pushable()
    stream.sink(out).catch(() => {})
    out.push(Buffer.from('?'))
    await stream.source[Symbol.asyncIterator]().next()
    times.push(now() - start)
    out.end()
  }
  return spread(times)
}

async function throughput (connection, size) {
  const stream = await connection.newStream(SINK)
  const piece = new Uint8Array(65536)
  async function * pieces () {
    const head = Buffer.alloc(8)
    head.writeBigUInt64BE(BigInt(size))
    yield head
    for (let left = size; left > 0; left -= piece.length) {
      yield left >= piece.length ? piece : piece.subarray(0, left)
    }
  }
  const start = now()
  stream.sink(pieces()).catch(() => {})
  await stream.source[Symbol.asyncIterator]().next()
  return { mb_per_second: size / 1000 / (now() - start) }
}

async function hold (address, count) {
  const nodes = await Promise.all(Array.from({ length: count }, () => createNode()))
  await Promise.all(nodes.map(node => dialOnce(node, address)))
  say({ held: count })
  await stdinEnd()
}

async function main (mode, address, count) {
  if (mode === 'serve') {
    return serve()
  }
  const there = multiaddr(address)
  const amount = Number(count)
  let result
  if (mode === 'dial' || mode === 'dial-together') {
    await dials(there, 20, false)
    result = await dials(there, amount, mode === 'dial-together')
  } else if (mode === 'ping' || mode === 'streams') {
    const connection = await (await createNode()).dial(there)
    const measure = mode === 'ping' ? ping : streams
    await measure(connection, amount / 10)
    result = await measure(connection, amount)
  } else if (mode === 'throughput') {
    result = await throughput(await (await createNode()).dial(there), amount)
  } else if (mode === 'hold') {
    return hold(there, amount)
  } else {
    throw new Error(`unknown mode ${mode}`)
  }
  say(result)
}

main(...process.argv.slice(2)).then(() => process.exit(0), error => {
  console.error(error)
  process.exit(1)
})
