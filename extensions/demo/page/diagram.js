// The picture of the trackers, their links, and their peers on a circle around them.
const INNER = 76
const OUTER = 148
const RADIUS = 31
const STEP = 17 // degrees between two peers of one tracker
const MAX_DRAWN = 5
const TRAVEL_MS = 1400
const SPAWN_MS = 350

const svg = document.getElementById('map')
const still = matchMedia('(prefers-reduced-motion: reduce)')

function make (name, attributes, parent) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name)
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value)
  parent.append(element)
  return element
}

function place (degrees, radius) {
  const angle = degrees * Math.PI / 180
  return [Math.cos(angle) * radius, Math.sin(angle) * radius].map(value => Math.round(value * 10) / 10)
}

const windowAt = ([x, y], parent) => make('g', { class: 'window', transform: `translate(${x} ${y})` }, parent)

export class Diagram {
  // The trackers' names, in the order of their places.
  constructor (names) {
    this.angles = new Map(names.map((name, number) => [name, number * 360 / names.length - 90]))
    this.spawned = new Map()
    make('circle', { class: 'orbit', r: OUTER }, svg)
    this.ways = this.pairs(names, (one, other) => {
      const [[x, y], [x2, y2]] = [one, other].map(name => place(this.angles.get(name), INNER))
      return make('path', { class: 'way', d: `M${x} ${y}L${x2} ${y2}` }, svg)
    })
    this.arcs = this.pairs(names, (one, other) => make('path', { class: 'arc', d: this.arc(one, other) }, svg))
    this.trackers = new Map(names.map(name => [name, this.tracker(name)]))
    this.travellers = make('g', {}, svg)
  }

  pairs (names, make) {
    return names.flatMap((one, number) => names.slice(number + 1).map(other => ({ one, other, element: make(one, other) })))
  }

  // The path of data along the circle, the shorter way round.
  arc (one, other) {
    const [from, to] = [one, other].map(name => this.angles.get(name))
    const clockwise = (to - from + 360) % 360 < 180
    const edge = clockwise ? STEP / 2 : -STEP / 2
    const [[x, y], [x2, y2]] = [place(from + edge, OUTER), place(to - edge, OUTER)]
    return `M${x} ${y}A${OUTER} ${OUTER} 0 0 ${clockwise ? 1 : 0} ${x2} ${y2}`
  }

  tracker (name) {
    const angle = this.angles.get(name)
    const [[x, y], [x2, y2]] = [place(angle, INNER), place(angle, OUTER)]
    make('path', { class: 'spoke', d: `M${x} ${y}L${x2} ${y2}` }, svg)
    const peers = make('g', {}, svg)
    const group = make('g', { class: 'tracker', transform: `translate(${x} ${y})` }, svg)
    make('circle', { r: RADIUS }, group)
    make('text', { class: 'letter', y: '-.1em' }, group).textContent = name
    const count = make('text', { y: 17 }, group)
    return { group, peers, count }
  }

  // Draw a tracker's peers. The first one is the page, with this part of the file; of all, so many are seeders.
  showTracker (name, { peers, seeders }, progress) {
    const { group, peers: drawn, count } = this.trackers.get(name)
    group.classList.toggle('lost', peers === null)
    count.textContent = peers === null ? 'lost' : `${peers} peer${peers === 1 ? '' : 's'}`
    const wanted = Math.max(1, Math.min(peers ?? 0, MAX_DRAWN))
    while (drawn.childElementCount > wanted) drawn.lastChild.remove()
    for (let number = drawn.childElementCount; number < wanted; number++) {
      const side = number % 2 ? Math.ceil(number / 2) : -number / 2
      const icon = windowAt(place(this.angles.get(name) + side * STEP, OUTER), drawn)
      make('rect', { class: 'frame', x: -17, y: -13, width: 34, height: 26, rx: 4 }, icon)
      make('rect', { class: 'content', x: -14, y: -6, width: 28, height: 16, rx: 1.5 }, icon)
    }
    const contents = drawn.querySelectorAll('.content')
    contents.forEach((content, number) => {
      content.style.transform = `scaleY(${number ? Number(number < seeders) : progress})`
    })
  }

  showLinks (areLinked) {
    for (const { one, other, element } of this.ways) element.classList.toggle('linked', areLinked(one, other))
  }

  showConnections (areConnected) {
    for (const { one, other, element } of this.arcs) element.classList.toggle('connected', areConnected(one, other))
  }

  // Let a piece of the file move from one page to another.
  travel (from, to) {
    const now = performance.now()
    if (from === to || still.matches || document.hidden || now - (this.spawned.get(from + to) ?? 0) < SPAWN_MS) return
    this.spawned.set(from + to, now)
    const path = make('path', { class: 'unseen', d: this.arc(from, to) }, this.travellers)
    const piece = make('g', { class: 'piece' }, this.travellers)
    make('rect', { x: -9, y: -7, width: 18, height: 14, rx: 2.5 }, piece)
    make('path', { d: 'M-6 4.5L-1.5-1.5L1.5 2L3.5 0L6.5 4.5z' }, piece)
    const length = path.getTotalLength()
    const move = time => {
      const part = Math.min(1, (time - now) / TRAVEL_MS)
      const { x, y } = path.getPointAtLength(length * (part < 0 ? 0 : part * part * (3 - 2 * part)))
      piece.setAttribute('transform', `translate(${x} ${y})`)
      if (part < 1) requestAnimationFrame(move)
      else [path, piece].forEach(element => element.remove())
    }
    move(now)
  }

  describe (text) { document.getElementById('map-about').textContent = text }
}
