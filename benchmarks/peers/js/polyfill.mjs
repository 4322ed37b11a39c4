// What libp2p 2.x takes from newer versions of Node than Debian 12 has. Import it first.

// Node 22.
Promise.withResolvers ??= function withResolvers () {
  const made = {}
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }))
  return made
}

// Node 19 made it global.
globalThis.CustomEvent ??= class CustomEvent extends Event {
  constructor (type, init) {
    super(type, init)
    this.detail = init?.detail ?? null
  }
}

// Node 20.
globalThis.crypto ??= (await import('node:crypto')).webcrypto
