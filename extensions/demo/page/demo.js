// The pages at the trackers that trackers.json names: all of them with a picture, or one of them (?at=NAME#INFOHASH).
import { Diagram } from './diagram.js'
import { Page } from './page.js'
import { draw } from './picture.js'

const PERIOD_MS = 1000
const TIMEOUT_MS = 5000
const UNREACHABLE = { peers: null, seeders: 0, links: [] }

const trackers = (await (await fetch('trackers.json')).json())
  .map(tracker => ({ ...tracker, http: tracker.url.replace(/^ws/, 'http').replace(/\/*$/, '/'), ...UNREACHABLE }))
const only = new URLSearchParams(location.search).get('at')
const shown = trackers.filter(({ name }) => !only || name === only)
const diagram = new Diagram(trackers.map(({ name }) => name))
const pages = shown.map(tracker => new Page(tracker, {
  onData: home => diagram.travel(home, tracker.name),
  onFile: infoHash => { document.getElementById('infohash').textContent = infoHash }
}))

// Each of two linked trackers has a row for the other. The one that has dialed knows the other's URL.
function areLinked (one, other) {
  const [first, second] = [one, other].map(wanted => trackers.find(({ name }) => name === wanted))
  return [[first, second], [second, first]].some(([from, to]) => from.links.includes(to.public_url)) &&
    first.peers !== null && second.peers !== null
}

function areConnected (one, other) {
  return pages.some(({ tracker: { name }, neighbours }) =>
    (name === one && neighbours.has(other)) || (name === other && neighbours.has(one)))
}

function show () {
  const names = trackers.map(({ name }) => name)
  const linked = names.flatMap((one, number) => names.slice(number + 1).filter(other => areLinked(one, other)).map(other => [one, other]))
  const all = names.length * (names.length - 1) / 2
  const pill = document.getElementById('links')
  pill.classList.toggle('good', linked.length === all)
  pill.textContent = linked.length === all ? 'All trackers are linked' : `${linked.length} of ${all} links`
  for (const page of pages) {
    // A tracker's own figures are up to five seconds old.
    if (page.tracker.peers === 0 && page.isPeer) page.tracker.peers = 1
    const { name, peers } = page.tracker
    page.showTracker(peers, linked.filter(pair => pair.includes(name)).flat().filter(other => other !== name))
  }
  for (const tracker of trackers) {
    diagram.showTracker(tracker.name, tracker, pages.find(page => page.tracker === tracker)?.progress ?? 0)
  }
  diagram.showLinks(areLinked)
  diagram.showConnections(areConnected)
  const links = linked.map(([one, other]) => `Trackers ${one} and ${other} are linked.`)
  const counts = trackers.map(({ name, peers }) => peers === null ? `Tracker ${name} can’t be reached.` : `Tracker ${name} has ${peers} peers.`)
  diagram.describe([...links, ...counts].join(' '))
}

async function read (tracker) {
  try {
    const response = await fetch(`${tracker.http}stats.json`, { signal: AbortSignal.timeout(TIMEOUT_MS) })
    const { peersAll: peers, peersSeederOnly: seeders, federation } = await response.json()
    Object.assign(tracker, { peers, seeders, links: federation.filter(({ direction }) => direction).map(({ url }) => url) })
  } catch {
    Object.assign(tracker, UNREACHABLE)
  }
}

async function update () {
  await Promise.all(trackers.map(read))
  show()
  setTimeout(update, PERIOD_MS)
}

if (only) {
  document.title = document.getElementById('title').textContent = `One more page at tracker ${only}`
  for (const element of document.querySelectorAll('.overview')) element.hidden = true
  document.querySelector('.single').hidden = false
  document.body.classList.add('narrow')
  if (location.hash.length > 1) pages[0].receive(location.hash.slice(1), 0)
} else {
  // Older than any file that somebody has chosen meanwhile, in this tab or another one.
  pages[0].send(await draw(), 0)
}
setInterval(show, 200)
update()
