// Runs nodes of npm's bittorrent-dht, and a client that reads and writes records.
import DHT from 'bittorrent-dht'
import { once } from 'node:events'
import { obey, report } from './lines.mjs'
import * as record from './record.mjs'

const HOST = '127.0.0.1'
const bytes = hex => Buffer.from(hex, 'hex')

let client

async function open (options) {
  const dht = new DHT({ verify: record.isSigned, ...options })
  dht.on('error', error => report('error', { text: error.message }))
  dht.listen(0, HOST)
  await once(dht, 'listening')
  return dht
}

const contact = dht => ({ id: dht.nodeId.toString('hex'), host: HOST, port: dht.address().port })

// A method with a callback; in place of failing, it gives the error's code.
function call (method, ...args) {
  return new Promise(resolve => client[method](...args, (error, ...results) => {
    resolve(error ? { code: error.code ?? 0 } : { results })
  }))
}

async function read (key, infoHash, now, all = false) {
  const slots = []
  for (const [index, salt] of record.SALTS.entries()) {
    const slot = { index, seq: -1, size: 0, entries: [], rejected: [] }
    const { results } = await call('get', record.target(key.publicKey, salt), { salt, cache: false })
    if (results?.[0]) {
      const { seq, v } = results[0]
      Object.assign(slot, { seq, size: ArrayBuffer.isView(v) ? v.length : 0 }, record.decodeValue(v, infoHash, now))
    }
    slots.push(slot)
    if (!all && !record.saysGoOn(slot)) break
  }
  return slots
}

const shown = ({ id, expires, url }) => ({ id: id.toString('hex'), expires, url })

obey({
  // So many nodes that know each other, and a client; without any, the client uses the nodes it is told of.
  async start ({ count, bootstrap }) {
    const nodes = await Promise.all(Array.from({ length: count }, () => open({ bootstrap: false })))
    const contacts = nodes.map(contact)
    for (const node of nodes) {
      for (const { id, host, port } of contacts) {
        if (port !== node.address().port) node.addNode({ id, host, port })
      }
    }
    client = await open({ bootstrap: count ? contacts.map(({ host, port }) => `${host}:${port}`) : bootstrap })
    if (!client.ready) await once(client, 'ready')
    report('started', { contacts })
  },

  async write ({ infoHash, seed, url, day, now }) {
    const hash = bytes(infoHash)
    const key = record.keyPair(record.recordSeed(hash, day))
    const own = record.signEntry(record.keyPair(bytes(seed)), hash, url, now)
    const placed = record.place(await read(key, hash, now, true), own, now)
    if (!placed) return report('written', { slot: null })
    const { slot, entries } = placed
    const cas = Math.max(slot.seq, 0)
    const { code, results } = await call('put', {
      k: key.publicKey,
      salt: record.SALTS[slot.index],
      seq: cas + 1,
      cas,
      v: record.encodeValue(entries),
      sign: key.sign
    })
    report('written', { slot: slot.index, seq: cas + 1, code, nodes: results?.[1] })
  },

  async read ({ infoHash, day, now }) {
    const hash = bytes(infoHash)
    const slots = await read(record.keyPair(record.recordSeed(hash, day)), hash, now)
    report('read', {
      slots: slots.map(({ index, seq, entries, rejected }) => ({ index, seq, entries: entries.map(shown), rejected }))
    })
  },

  // One raw item in a slot, or in a shard that bits name.
  async put ({ infoHash, day, slot, bits, seq, cas, value }) {
    const key = record.keyPair(record.recordSeed(bytes(infoHash), day))
    const salt = bits === undefined ? record.SALTS[slot] : record.shardSalt(bits)
    const { code, results } = await call('put', { k: key.publicKey, salt, seq, cas, v: bytes(value), sign: key.sign })
    report('put', { code, nodes: results?.[1] })
  },

  async readShard ({ infoHash, day, now, bits }) {
    const hash = bytes(infoHash)
    const salt = record.shardSalt(bits)
    const key = record.keyPair(record.recordSeed(hash, day))
    const { results } = await call('get', record.target(key.publicKey, salt), { salt, cache: false })
    const { entries, rejected } = record.decodeValue(results?.[0]?.v, hash, now, bits)
    report('shard', { seq: results?.[0]?.seq, entries: entries.map(shown), rejected })
  },

  async announce ({ hash, port }) {
    const { code } = await call('announce', bytes(hash), port)
    report('announced', { code })
  },

  async lookUp ({ hash }) {
    const peers = new Set()
    const onPeer = ({ host, port }, infoHash) => {
      if (infoHash.equals(bytes(hash))) peers.add(`${host}:${port}`)
    }
    client.on('peer', onPeer)
    await call('lookup', bytes(hash))
    client.off('peer', onPeer)
    report('found', { peers: [...peers] })
  },

  // What docs/dht.md has as test vectors, computed from what they start from.
  vectors ({ infohash, time, tracker_seed: seed, url, urls, values, text_info_hash: text, unicode_info_hash: unicode }) {
    const hash = bytes(infohash)
    const now = Number(time)
    const day = record.dayOf(now)
    const key = record.keyPair(record.recordSeed(hash, day))
    const tracker = record.keyPair(bytes(seed))
    const entry = record.signEntry(tracker, hash, url, now)
    const card = record.signEntry(tracker, Buffer.alloc(0), url, now)
    const value = record.encodeValue([entry])
    // The number is text: JavaScript would round the greatest one.
    const itemOf = seq => {
      return Buffer.from(`4:salt2:r03:seqi${seq}e1:v${value.length}:${value.toString('latin1')}`, 'latin1')
    }
    const signed = (number, age) => record.signEntry(record.keyPair(Buffer.alloc(32, number)), hash, url, now + age)
    const three = [signed(11, 0), signed(12, 60), signed(13, 120)]
    const path = record.path(hash, tracker.publicKey)
    const hex = {
      record_seed: record.recordSeed(hash, day),
      record_key: key.publicKey,
      target_r0: record.target(key.publicKey, record.SALTS[0]),
      target_r1: record.target(key.publicKey, record.SALTS[1]),
      target_r2: record.target(key.publicKey, record.SALTS[2]),
      announce_hash: record.announceHash(hash, day),
      rendezvous: record.RENDEZVOUS,
      tracker_id: tracker.publicKey,
      message: record.message(hash, entry),
      signature: entry.signature,
      entry: record.encodeEntry(entry),
      value,
      item_message: itemOf('1'),
      item_signature: key.sign(itemOf('1')),
      locked_message: itemOf('9223372036854775807'),
      locked_signature: key.sign(itemOf('9223372036854775807')),
      target_shard: record.target(key.publicKey, record.shardSalt(path.slice(0, 3))),
      value_of_three: record.encodeValue(three),
      value_with_depth: record.encodeValue(three, 10),
      descriptor_message: record.message(Buffer.alloc(0), card),
      text_key: record.textKey(text),
      unicode_key: record.textKey(unicode)
    }
    const computed = {
      day: String(day),
      expires: String(entry.expires),
      path,
      descriptor: JSON.stringify({ ...shown(card), signature: card.signature.toString('hex') }),
      ...Object.fromEntries(Object.entries(hex).map(([name, data]) => [name, data.toString('hex')]))
    }
    const seven = [21, 22, 23, 24, 25, 26].map((number, n) => signed(number, 60 * n)).concat(signed(27, 600))
    const later = 7230
    const slots = [seven.slice(0, 6), seven.slice(6)].map((entries, index) => {
      const value = record.encodeValue(entries)
      return { index, seq: 1, size: value.length, value, ...record.decodeValue(value, hash, now + later) }
    })
    const placed = record.place(slots, signed(22, later), now + later)
    report('vectors', {
      computed,
      placing: {
        placing_time: String(now + later),
        placing_r0: slots[0].value.toString('hex'),
        placing_r1: slots[1].value.toString('hex'),
        placing_value: placed.slot === slots[0] ? record.encodeValue(placed.entries).toString('hex') : ''
      },
      urls: urls.map(record.isUrl),
      values: values.map(data => record.decodeValue(bytes(data), hash, now).rejected)
    })
  }
})
