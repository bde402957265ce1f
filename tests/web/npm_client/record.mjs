// Records in the DHT, as docs/dht.md has them, with nothing else to go by. It writes no shards.
import { createHash, createPrivateKey, createPublicKey, sign, verify } from 'node:crypto'
import bencode from 'bencode'

export const SALTS = ['r0', 'r1', 'r2'].map(salt => Buffer.from(salt))
const LIFETIME = 7200
const SKEW = 900
const MAX_VALUE = 996
const MAX_ENTRY = 248
const MAX_ENTRIES = 16
const LOCKED = 2 ** 52
const MAX_DEPTH = 20
const REST = 3

const sha1 = (...parts) => createHash('sha1').update(Buffer.concat(parts)).digest()
const sha256 = (...parts) => createHash('sha256').update(Buffer.concat(parts)).digest()
const encode = value => Buffer.from(bencode.encode(value))

// Ed25519 keys are 32 bytes; node's crypto wants them in PKCS #8 and SPKI, which begin like this.
const PRIVATE = Buffer.from('302e020100300506032b657004220420', 'hex')
const PUBLIC = Buffer.from('302a300506032b6570032100', 'hex')

export function keyPair (seed) {
  const secret = createPrivateKey({ key: Buffer.concat([PRIVATE, seed]), format: 'der', type: 'pkcs8' })
  const publicKey = createPublicKey(secret).export({ format: 'der', type: 'spki' }).subarray(PUBLIC.length)
  return { publicKey, sign: message => sign(null, message, secret) }
}

export function isSigned (signature, message, publicKey) {
  try {
    const key = createPublicKey({ key: Buffer.concat([PUBLIC, publicKey]), format: 'der', type: 'spki' })
    return verify(null, message, key, signature)
  } catch {
    return false
  }
}

const NAMESPACE = 'peerservers/1'

function derive (purpose, infoHash, day) {
  const number = Buffer.alloc(4)
  number.writeUInt32BE(day)
  return sha256(Buffer.from(`${NAMESPACE} ${purpose}`), number, infoHash)
}

export const dayOf = now => Math.floor(now / 86400)
export const recordSeed = (infoHash, day) => derive('record', infoHash, day)
export const announceHash = (infoHash, day) => derive('announce', infoHash, day).subarray(0, 20)
export function path (infoHash, id) {
  const bytes = sha256(Buffer.from(`${NAMESPACE} shard`), infoHash, id)
  return [...bytes].map(byte => byte.toString(2).padStart(8, '0')).join('').slice(0, MAX_DEPTH)
}
export const shardSalt = bits => Buffer.from(`s${bits}`)
export const textKey = infoHash => sha256(Buffer.from(`${NAMESPACE} text id${infoHash}`)).subarray(0, 20)
export const target = (publicKey, salt) => sha1(publicKey, salt)
export const RENDEZVOUS = sha1(Buffer.from('peerservers rendezvous'))

const HOST = /(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])/
const PATH = /[/?][A-Za-z0-9!$%&()*+,./:;=?[\]^_{|}~-]*/
const TRACKER = new RegExp(`^wss?://${HOST.source}(?::([0-9]{1,5}))?(?:${PATH.source})?$`)

export function isUrl (url) {
  const found = url.length > 128 ? null : TRACKER.exec(url)
  return found !== null && (found[1] === undefined || (Number(found[1]) > 0 && Number(found[1]) < 65536))
}

export function message (infoHash, { id, expires, url }) {
  return encode({ e: expires, h: infoHash, i: id, n: `${NAMESPACE} entry`, u: url })
}

export function signEntry (key, infoHash, url, now) {
  const entry = { id: key.publicKey, expires: now + LIFETIME, url }
  return { ...entry, signature: key.sign(message(infoHash, entry)) }
}

const wire = ({ id, expires, url, signature }) => [id, expires, url, signature]
export const encodeEntry = entry => encode(wire(entry))
export const encodeValue = (entries, depth) => encode({
  ...(depth === undefined ? {} : { d: depth }), e: [...entries].sort(freshest).map(wire), v: 1
})

function rejection ({ id, expires, url, signature }, infoHash, now) {
  if (id.length !== 32 || signature.length !== 64) return 'wrong_length'
  if (expires <= now) return 'expired'
  if (expires > now + LIFETIME + SKEW) return 'far_expiry'
  if (!isUrl(url)) return 'invalid_url'
  return isSigned(signature, message(infoHash, { id, expires, url }), id) ? null : 'invalid_signature'
}

function parse (item) {
  const types = Array.isArray(item) && item.map(part => ArrayBuffer.isView(part) ? 'bytes' : typeof part).join()
  if (types !== 'bytes,number,bytes,bytes') return null
  const [id, expires, url, signature] = item
  // Latin-1: what is no ASCII becomes what no URL may have, and nothing is lost.
  return { id: Buffer.from(id), expires, url: Buffer.from(url).toString('latin1'), signature: Buffer.from(signature) }
}

const [INTEGER, LIST, DICT, END, COLON] = Buffer.from('ilde:')

// Where the string ends that begins here; and where the value does. Both throw.
function endOfString (data, at) {
  const [length] = /^[0-9]*/.exec(data.toString('latin1', at, at + 5))
  const end = at + length.length + 1 + Number(length)
  if (!length || data[at + length.length] !== COLON || end > data.length) throw new Error('not a string')
  return end
}

function endOfValue (data, at) {
  if (data[at] === INTEGER) {
    const end = data.indexOf(END, at)
    if (end < 0) throw new Error('endless')
    return end + 1
  }
  if (data[at] !== LIST && data[at] !== DICT) return endOfString(data, at)
  const start = at++
  while (data[at] !== END) at = endOfValue(data, data[start] === DICT ? endOfString(data, at) : at)
  return at + 1
}

function decode (value) {
  const data = Buffer.from(value)
  // Of a string with a negative length bencode reads the same for ever, and it takes what is cut off or left over.
  if (endOfValue(data, 0) !== data.length) throw new Error('left over')
  return bencode.decode(data)
}

// What is valid in a slot's value, and why the rest is not; of a shard if there are bits.
export function decodeValue (value, infoHash, now, bits = '') {
  const rejected = []
  const nothing = reason => ({ entries: [], rejected: [reason] })
  if (!ArrayBuffer.isView(value)) return nothing('not_a_string')
  if (value.length > MAX_VALUE) return nothing('too_long')
  let table
  try {
    table = decode(value)
  } catch {
    return nothing('not_bencode')
  }
  if (table === null || Object.getPrototypeOf(table) !== Object.prototype) return nothing('wrong_type')
  if (!encode(table).equals(value)) return nothing('not_canonical')
  if (table.v !== 1) return nothing('wrong_version')
  if (!Array.isArray(table.e)) return nothing('wrong_type')
  for (let n = MAX_ENTRIES; n < table.e.length; n++) rejected.push('too_many')
  const entries = []
  for (const item of table.e.slice(0, MAX_ENTRIES)) {
    const entry = parse(item)
    let reason = entry ? rejection(entry, infoHash, now) : 'wrong_type'
    if (!reason && !path(infoHash, entry.id).startsWith(bits)) reason = 'wrong_shard'
    if (reason) rejected.push(reason)
    else entries.push(entry)
  }
  return { entries: merge(entries), rejected }
}

const freshest = (a, b) => b.expires - a.expires || Buffer.compare(a.id, b.id)

const byEnd = (a, b) => a.expires - b.expires || Buffer.compare(a.signature, b.signature)

// The last of each tracker's entries, the freshest first.
export function merge (entries) {
  const newest = new Map()
  for (const entry of entries) {
    const id = entry.id.toString('hex')
    if (!newest.has(id) || byEnd(entry, newest.get(id)) > 0) newest.set(id, entry)
  }
  return [...newest.values()].sort(freshest)
}

// A slot: the greatest sequence number seen (-1: none), the longest value's length, the valid entries, and why others
// were ignored.
const isLocked = slot => slot.seq >= LOCKED
const isSpoilt = slot => slot.rejected.some(reason => reason !== 'expired') && slot.entries.length === 0
const isFull = slot => Math.max(slot.size, encodeValue(slot.entries).length) + MAX_ENTRY > MAX_VALUE
export const saysGoOn = slot => isLocked(slot) || isSpoilt(slot) || isFull(slot)

// The slot to write to, and what is in it then; null if all are locked, or the last one rests.
export function place (slots, own, now) {
  const others = slot => slot.entries.filter(entry => !entry.id.equals(own.id))
  const fits = entries => encodeValue(entries).length <= MAX_VALUE
  for (const [position, slot] of slots.entries()) {
    const entries = [...others(slot), own]
    if (isLocked(slot) || !fits(entries)) continue
    const later = slots.slice(position + 1).filter(slot => !isLocked(slot))
    for (const entry of merge(later.flatMap(slot => slot.entries))) {
      if (!entries.some(({ id }) => id.equals(entry.id)) && fits([...entries, entry])) entries.push(entry)
    }
    return { slot, entries: merge(entries) }
  }
  const window = slots.at(-1)
  const entries = others(window).sort(freshest)
  if (isLocked(window) || entries.some(({ expires }) => Math.abs(expires - LIFETIME - now) < REST)) return null
  while (!fits([...entries, own])) entries.pop()
  return { slot: window, entries: merge([...entries, own]) }
}
