const PERIOD = 4000
const TIMEOUT = 10000
const root = document.documentElement
const said = document.getElementById('said')
let timer
let asking = false

// Make `old` equal to `fresh`. Elements that stay are kept, so that their changes are animated and a selection in them
// survives.
function morph (old, fresh) {
  if (old.nodeName !== fresh.nodeName) return old.replaceWith(fresh)
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data
    return
  }
  const busy = old.dataset.traffic !== fresh.dataset.traffic
  if (old.nodeName === 'DETAILS') fresh.open = old.open
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name)
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value)
  old.classList.toggle('busy', busy)
  if (!old.classList.length) old.removeAttribute('class')
  const byKey = new Map([...old.children].map(child => [child.dataset.key, child]))
  let next = old.firstChild
  for (const child of [...fresh.childNodes]) {
    const key = child.dataset?.key
    let match = key ? byKey.get(key) : next?.dataset?.key ? null : next
    byKey.delete(key)
    if (match) {
      if (match === next) next = next.nextSibling
      else old.insertBefore(match, next)
      morph(match, child)
    } else {
      if (key) child.classList.add('new')
      old.insertBefore(child, next)
    }
  }
  while (next) [next, fresh] = [next.nextSibling, next.remove()]
}

async function update () {
  clearTimeout(timer)
  if (document.hidden || asking) return
  asking = true
  try {
    const answer = await fetch((root.dataset.base ?? '') + 'live', { cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT) })
    if (!answer.ok) throw new Error(answer.status)
    const fresh = new DOMParser().parseFromString(await answer.text(), 'text/html')
    for (const part of [...fresh.body.children]) {
      const old = document.getElementById(part.id)
      if (old) morph(old, part)
    }
    root.classList.remove('lost')
  } catch {
    if (!root.classList.contains('lost')) {
      const status = document.getElementById('status')
      status.className = 'pill bad'
      status.textContent = `Can’t be reached since ${new Date().toLocaleTimeString()}`
    }
    root.classList.add('lost')
  }
  asking = false
  timer = setTimeout(update, PERIOD)
}

async function copy (code) {
  getSelection().selectAllChildren(code)
  try {
    // Only secure contexts have navigator.clipboard; others need the deprecated command.
    if (navigator.clipboard) await navigator.clipboard.writeText(code.textContent)
    else if (!document.execCommand('copy')) throw new Error()
    return 'Copied'
  } catch {
    return 'Selected'
  }
}

for (const button of document.querySelectorAll('[data-copy]')) {
  const code = button.previousElementSibling
  if ('guess' in button.parentElement.dataset) {
    // The tracker may not know the URL that people use, if a proxy does not tell it.
    const url = location.href.replace(/^http/, 'ws').replace(/[?#].*/, '').replace(/\/$/, '')
    code.textContent = button.dataset.copy === 'url' ? url : '&tr=' + encodeURIComponent(url)
  }
  button.hidden = false
  button.onclick = async () => {
    button.textContent = said.textContent = await copy(code)
    setTimeout(() => { button.textContent = 'Copy'; said.textContent = '' }, 2000)
  }
}
document.addEventListener('visibilitychange', update)
timer = setTimeout(update, PERIOD)
