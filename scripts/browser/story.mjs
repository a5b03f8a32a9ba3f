// What a person and an attacker do in a browser. It prints a line for each thing that
// was tried, and ends with status 1 if one went otherwise than it should.
import assert from 'node:assert/strict'
import { mkdirSync, readFileSync } from 'node:fs'
import { connect as connectHTTP2 } from 'node:http2'
import { createServer } from 'node:https'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect } from 'node:tls'
import puppeteer from 'puppeteer-core'

const { BROWSER, EXECUTABLE, SHOP, BILLING, PASSWORD, CONTROL, GRPC, SHOTS, TLS, ONLY } = process.env
const chromium = BROWSER === 'chromium'
const axe = readFileSync(new URL('node_modules/axe-core/axe.min.js', import.meta.url), 'utf8')
mkdirSync(SHOTS, { recursive: true })

let failures = 0
const contexts = []
const began = Date.now()
async function check(name, run) {
  if (ONLY && !name.match(ONLY)) return
  try {
    await run()
    console.log(`ok    ${name} (${((Date.now() - began) / 1000).toFixed(1)} s)`)
  } catch (error) {
    failures++
    console.log(`FAIL  ${name}: ${error.stack}`)
  }
  for (const context of contexts.splice(0)) await context.close()
}
const control = async (what) => {
  const response = await fetch(CONTROL + what)
  assert.equal(response.status, 200, await response.clone().text())
  return response.json()
}

// The attacker's site, whose answer to each path is a page.
const evilPages = new Map()
const evil = createServer({ cert: readFileSync(`${TLS}/server.pem`), key: readFileSync(`${TLS}/server.key`) }, (request, response) => {
  const page = evilPages.get(request.url.split('?')[0])
  response.writeHead(page ? 200 : 404, { 'Content-Type': 'text/html; charset=utf-8', ...page?.headers })
  response.end(page?.body ?? '')
})
await new Promise((listening) => evil.listen(0, '127.0.0.1', listening))
const EVIL = `https://evil.localhost:${evil.address().port}`
const SIBLING = `https://x.billing.localhost:${evil.address().port}`

// launch starts a browser, of which some parts can be switched off.
const launch = ({ http2 = true, scripts = true } = {}) => puppeteer.launch({
  browser: chromium ? 'chrome' : 'firefox', executablePath: EXECUTABLE, headless: true, acceptInsecureCerts: true,
  args: chromium ? ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', ...(http2 ? [] : ['--disable-http2'])] : [],
  extraPrefsFirefox: { 'network.http.http2.enabled': http2, 'javascript.enabled': scripts },
})
const browser = await launch()

const violations = []
async function newPage(context) {
  const page = await context.newPage()
  page.setDefaultTimeout(30000)
  await page.setViewport({ width: 1100, height: 850 })
  page.on('console', (message) => {
    if (/Content.Security.Policy/i.test(message.text()) && page.url().match(/^https:\/\/(shop|billing)\./)) violations.push(`${page.url()}: ${message.text()}`)
  })
  return page
}
// newPerson is somebody with a browser of their own, signed in at the shop: as others of
// that name are, since a password takes the shop a second, or with a session of their own.
const sessions = new Map()
async function newPerson(name = 'alice', { own = false, from = browser } = {}) {
  const context = await from.createBrowserContext()
  contexts.push(context)
  const page = await newPage(context)
  if (!own && sessions.has(name)) {
    await context.setCookie(sessions.get(name))
    await page.goto(SHOP + '/orders')
  } else {
    await page.goto(SHOP + '/')
    await page.type('#user_name', name)
    await page.type('#password', PASSWORD)
    await go(page, 'Sign in')
    if (!own) sessions.set(name, (await context.cookies()).find((cookie) => cookie.name === '__Host-session'))
  }
  assert.match(await text(page), new RegExp(`Signed in as ${name}`))
  return { context, page }
}
const text = (page) => page.$eval('body', (body) => body.innerText)
const wants = async (page, ...patterns) => {
  const seen = await text(page)
  for (const pattern of patterns) assert.match(seen, pattern)
}
const button = (page, label) => page.waitForSelector(`::-p-xpath(//button[contains(., "${label}") or contains(@aria-label, "${label}")])`)
// go presses a button and waits for where it leads.
async function go(page, label, options) {
  await page.bringToFront()
  const pressed = await button(page, label)
  await Promise.all([page.waitForNavigation(), pressed.click(options)])
}
// clickOn clicks on what a selector finds, as often as the page puts another in its place
// before it is clicked, and waits for where it leads.
async function clickOn(page, selector) {
  await page.bringToFront()
  await Promise.all([page.waitForNavigation(), page.locator(selector).click()])
}
// arrived waits until the browser has arrived somewhere.
async function arrived(page, pattern) {
  for (let left = 200; left > 0; left--) {
    if (page.url().match(pattern)) {
      await page.waitForSelector('h1')
      return
    }
    await sleep(50)
  }
  throw new Error(`${page.url()} is not ${pattern}`)
}
// until waits for something that takes the servers a while.
async function until(what, holds, most = 20000) {
  for (const end = Date.now() + most; ; await sleep(100)) {
    const held = await holds()
    if (held) return held
    assert.ok(Date.now() < end, what)
  }
}
const confirmPage = new RegExp(`^${BILLING}/handoff/[A-Za-z0-9_-]{22}$`)
// pay clicks on "Pay at billing", and waits for billing's page.
async function pay(person, order = 'INV-42', page = person.page) {
  if (page.url() !== SHOP + '/orders') await page.goto(SHOP + '/orders')
  await page.bringToFront()
  await (await button(page, order)).click()
  await arrived(page, confirmPage)
  return page
}
const follow = (page, label) => clickOn(page, `::-p-xpath(//a[contains(., "${label}")])`)
const formPage = (action, fields, more = '') => `<!doctype html><meta charset="utf-8">${more}<form method="post" action="${action}">${Object.entries(fields)
  .map(([name, value]) => `<input name="${name}" value="${value}">`).join('')}<button>Go</button></form><script>document.forms[0].submit()</script>`

// look has axe-core judge the page as it is, and keeps a picture in both sizes and both
// colours.
const looked = new Set()
async function look(page, name) {
  await page.bringToFront() // no picture is made of another
  const state = await page.evaluate(() => ({
    url: location.href, referrer: document.referrer, cookies: document.cookie,
    storage: JSON.stringify([{ ...localStorage }, { ...sessionStorage }]), entries: history.length,
  }))
  for (const value of [state.url, state.referrer]) assert.doesNotMatch(value, /eyJ|handoff=/)
  assert.equal(state.cookies, '', 'a script can read a cookie')
  assert.equal(state.storage, '[{},{}]', 'something is stored')
  if (looked.has(name)) return
  looked.add(name)
  for (const scheme of chromium ? ['light', 'dark'] : ['light']) {
    if (chromium) await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }])
    for (const width of [1100, 360, ...(scheme === 'light' ? [320] : [])]) {
      await page.setViewport({ width, height: 850 })
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
      assert.ok(overflow <= 0, `${name} is ${overflow} px too wide at ${width} px`)
      if (width !== 320) await page.screenshot({ path: `${SHOTS}/${name}-${width}-${scheme}.png`, fullPage: true })
    }
    await page.evaluate(axe + '; undefined')
    const found = await page.evaluate(async () => (await window.axe.run(document)).violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html).join(' ')}`))
    assert.deepEqual(found, [], `axe-core on ${name}, ${scheme}`)
  }
  await page.setViewport({ width: 1100, height: 850 })
  if (chromium) await page.emulateMediaFeatures([])
}

// Bodies that never come in full, which no page can send: over HTTP/1.1 and HTTP/2, to
// each of the servers, while everything else happens. Each is how it was answered, and
// after how long.
function slow(origin, path, protocol) {
  const from = origin === BILLING ? SHOP : origin
  const { hostname, host, port } = new URL(origin)
  const headers = { origin: from, 'content-type': 'application/x-www-form-urlencoded', 'content-length': '100' }
  const began = Date.now()
  return new Promise((done, failed) => {
    const answered = (status) => done({ status, seconds: (Date.now() - began) / 1000 })
    if (protocol === 'HTTP/2') {
      const session = connectHTTP2(`https://127.0.0.1:${port}`, { rejectUnauthorized: false })
      session.on('error', failed)
      const stream = session.request({ ':method': 'POST', ':path': path, ':authority': host, ...headers })
      stream.on('error', failed)
      stream.on('response', (response) => {
        answered(response[':status'])
        session.destroy()
      })
      stream.write('handoff=')
      return
    }
    const socket = connect({ host: '127.0.0.1', port, servername: hostname, rejectUnauthorized: false, ALPNProtocols: ['http/1.1'] })
    let text = ''
    socket.on('error', failed)
    socket.on('data', (data) => { text += data })
    socket.on('close', () => answered(Number(text.split(' ')[1]))) // it is closed: nothing is held
    socket.write(`POST ${path} HTTP/1.1\r\nHost: ${host}\r\n${Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\nhandoff=`)
  })
}

// crowd takes all places that billing has for calls of one network, with calls whose
// body never comes: each ends after two seconds, and then there is another. full is when
// the first is refused, which leaves most of the two seconds.
function crowd() {
  const sessions = []
  const full = new Promise((refused) => {
    for (let i = 0; i < 24; i++) {
      const session = connectHTTP2(`https://${GRPC}`, { rejectUnauthorized: false })
      sessions.push(session)
      session.on('error', () => {})
      const call = () => {
        if (session.destroyed) return
        const stream = session.request({ ':method': 'POST', ':path': '/grpc.health.v1.Health/Check', 'content-type': 'application/grpc', te: 'trailers' })
        let wait = 0
        stream.on('error', () => {})
        stream.on('response', (headers) => {
          if (headers['grpc-status'] !== '8') return // RESOURCE_EXHAUSTED
          wait = 200
          refused()
        })
        stream.on('close', () => setTimeout(call, wait))
        stream.resume()
      }
      session.on('connect', () => { for (let j = 0; j < 100; j++) call() })
    }
  })
  return { full, end: () => sessions.forEach((session) => session.destroy()) }
}
const slowOnes = [[BILLING, '/handoff', 400], [SHOP, '/sign-in', 408]].flatMap(([origin, path, status]) => ['HTTP/1.1', 'HTTP/2'].map((protocol) => {
  const one = { name: `${protocol} to ${origin}`, status }
  slow(origin, path, protocol).then((answer) => Object.assign(one, { answer }), (error) => Object.assign(one, { error }))
  return one
}))

// Somebody reads for too long, while everything else happens.
const reader = await newPerson()
await send(reader, await control('/token?user=alice&kind=a+short+life'))
await wants(reader.page, /Pay invoice INV-43/)
contexts.splice(0)

await check('H01 the whole way: click, page, confirmation, outcome, back', async () => {
  const person = await newPerson()
  const { page } = person
  await look(page, 'orders')
  await pay(person)
  await wants(page, /shop\.localhost.* asks you to confirm/, /Pay invoice INV-42: 12\.00 EUR/, /Nothing happens before you confirm/)
  await look(page, 'confirm')
  await page.reload()
  await page.type('[name=memo]', 'two bags')
  await go(page, 'Pay 12.00 EUR')
  await arrived(page, confirmPage)
  await wants(page, /Done\. Invoice INV-42 is paid: 12\.00 EUR\./)
  await look(page, 'outcome')
  await page.reload()
  await wants(page, /Done\./)
  await page.goBack()
  await arrived(page, /^https/)
  if (page.url().match(confirmPage)) await wants(page, /Done\./)
  await page.goForward()
  await page.goto(page.url().match(confirmPage) ? page.url() : SHOP + '/orders')
})

await check('J02 Back and Forward on every page: nothing is paid twice', async () => {
  const person = await newPerson()
  const page = await pay(person, 'INV-46')
  const at = page.url()
  await page.goBack()
  await page.goForward()
  await page.goto(at)
  await wants(page, /Pay invoice INV-46: 7\.00 EUR/)
  await go(page, 'Pay 7.00 EUR')
  await wants(page, /Done\. Invoice INV-46 is paid/)
  await follow(page, 'Back to shop')
  assert.match(page.url(), new RegExp(`^${SHOP}/orders/`))
  await wants(page, /Back from billing/)
  await look(page, 'back')
  await page.goBack()
  await wants(page, /Done\./)
})

await check("the shop's page on the way", async () => {
  const { page } = await newPerson()
  await page.setRequestInterception(true)
  page.on('request', (request) => { request.url() === BILLING + '/handoff' ? request.abort('aborted') : request.continue() })
  await page.bringToFront()
  await (await button(page, 'INV-47')).click()
  await page.waitForSelector('[name=handoff]')
  await wants(page, /Continue to billing\.localhost/, /Nothing has happened yet/)
  await look(page, 'send')
})

// By the keyboard only: a click by WebDriver needs scripts in Firefox.
await check('without JavaScript', async () => {
  const from = chromium ? browser : await launch({ scripts: false })
  const context = await from.createBrowserContext()
  const page = await newPage(context)
  if (chromium) await page.setJavaScriptEnabled(false)
  const press = async (label) => {
    const found = await page.evaluate((label) => {
      const button = [...document.querySelectorAll('button')].find((button) => (button.textContent + button.ariaLabel).includes(label))
      button?.focus()
      return !!button
    }, label)
    assert.ok(found, `no button ${label} at ${page.url()}`)
    await Promise.all([page.waitForNavigation(), page.keyboard.press('Enter')])
  }
  await context.setCookie(sessions.get('alice'))
  await page.goto(SHOP + '/orders')
  await press('INV-47')
  await wants(page, /Continue to billing\.localhost/, /Nothing has happened yet/)
  await press('Continue')
  await wants(page, /Pay invoice INV-47: 3\.00 EUR/)
  await press('Pay 3.00 EUR')
  await wants(page, /Done\./)
  await (chromium ? context : from).close()
})

await check('J02 a double click on "Pay"', async () => {
  const person = await newPerson()
  const page = await pay(person, 'INV-46')
  const pressed = await button(page, 'Pay 7.00 EUR')
  await Promise.all([page.waitForNavigation(), pressed.click({ count: 2 })])
  await until('it is not done', async () => /Done\./.test(await text(page).catch(() => '')))
})

await check('two tabs with two handoffs; one is closed and opened again', async () => {
  const person = await newPerson()
  const one = await pay(person, 'INV-46')
  const two = await newPage(person.context)
  await pay(person, 'INV-47', two)
  const at = one.url()
  await one.close()
  await go(two, 'Pay 3.00 EUR')
  await wants(two, /INV-47 is paid/)
  const again = await newPage(person.context)
  await again.goto(at)
  await wants(again, /Pay invoice INV-46/)
  const second = await newPage(person.context)
  await second.goto(at)
  await go(again, 'Pay 7.00 EUR')
  await wants(again, /INV-46 is paid/)
  await go(second, 'Pay 7.00 EUR')
  await wants(second, /INV-46 is paid/)
})

await check('revoked by signing out in another tab', async () => {
  const person = await newPerson('alice', { own: true })
  const page = await pay(person, 'INV-44')
  const at = page.url()
  const other = await newPage(person.context)
  await other.goto(SHOP + '/orders')
  await go(other, 'Sign out')
  await wants(other, /You are signed out/)
  await look(other, 'signed-out')
  await until('it still counts', async () => {
    await other.goto(at)
    return /was taken back/.test(await text(other))
  })
  await go(page, 'Pay 5.00 EUR')
  await wants(page, /was taken back/, /nothing has happened/)
  await look(page, 'revoked')
})

await check('H04 signing in: no, yes, and with a session planted before', async () => {
  const context = await browser.createBrowserContext()
  contexts.push(context)
  const planted = { ...sessions.get('alice'), value: 'A'.repeat(43) }
  await context.setCookie(planted)
  const page = await newPage(context)
  await page.goto(SHOP + '/')
  await wants(page, /Your session has ended/)
  await look(page, 'session-over')
  await page.type('#user_name', 'alice')
  await page.type('#password', 'wrong')
  await go(page, 'Sign in')
  await wants(page, /no user with this name and password/)
  await look(page, 'sign-in-refused')
  await page.type('#password', PASSWORD)
  await go(page, 'Sign in')
  const [session, ...more] = (await context.cookies()).filter((cookie) => cookie.name === '__Host-session')
  assert.equal(more.length, 0)
  assert.notEqual(session.value, planted.value)
  await page.goto(SHOP + '/none')
  await wants(page, /There is no such page/)
  await look(page, 'shop-no-page')
})

// send brings a token to billing from the shop's origin: a page of it without a
// Content-Security-Policy of its own, from which any form can be posted.
async function send(person, token) { return post(person, [['handoff', token]]) }
async function post({ page }, fields, { type = 'application/x-www-form-urlencoded', to = BILLING + '/handoff' } = {}) {
  await page.goto(SHOP + '/.well-known/none')
  await page.bringToFront()
  const [response] = await Promise.all([page.waitForNavigation(), page.evaluate((action, fields, type) => {
    const form = document.createElement('form')
    form.method = 'post'
    form.action = action
    form.enctype = type
    for (const [name, value] of fields) {
      const input = document.createElement('textarea')
      input.name = name
      input.value = value.length === 1 ? value.repeat(1 << 20) : value
      form.append(input)
    }
    document.body.append(form)
    form.submit()
  }, to, fields, type)])
  await arrived(page, new RegExp(`^${new URL(to).origin}/`))
  return Object.assign(page, { answered: response })
}
for (const [kind, pattern] of [['another audience', /for another service/], ['a digest', /cannot be shown/], ['a stream', /cannot be shown/], ['too large', /too large/]]) {
  await check(`refused: ${kind}`, async () => {
    const person = await newPerson('bob')
    const page = await send(person, await control(`/token?user=bob&kind=${encodeURIComponent(kind)}`))
    await wants(page, pattern, /Nothing has happened/)
    assert.equal(page.url(), `${BILLING}/handoff`)
    await look(page, kind.replaceAll(' ', '-'))
    await page.waitForSelector(`a[href^="${SHOP}/orders/"]`)
    await page.reload().catch(() => {})
  })
}
await check('refused: an invoice that is not hers', async () => {
  const person = await newPerson()
  const page = await send(person, await control('/token?user=alice&kind=pay'))
  await wants(page, /Pay invoice INV-43: 99\.00 EUR/)
  await go(page, 'Pay 99.00 EUR')
  await wants(page, /Nothing has happened\. You have no such invoice here\./)
  await look(page, 'not-hers')
})
await check('refused: used before, elsewhere', async () => {
  const token = await control('/token?user=alice&kind=pay')
  const one = await newPerson()
  await send(one, token)
  const two = await newPerson()
  await send(two, token)
  await go(one.page, 'Pay 99.00 EUR')
  await go(two.page, 'Pay 99.00 EUR')
  await wants(two.page, /used before|no such invoice/)
  await look(two.page, 'replayed')
})

for (const [name, fields, options, status] of [
  ['J09 a field twice', [['handoff', 'x.y.z'], ['handoff', 'x.y.z']], {}, 400],
  ['J09 a field too many', [['handoff', 'x.y.z'], ['next', '//evil.example']], {}, 400],
  ['J09 multipart', [['handoff', 'x.y.z']], { type: 'multipart/form-data' }, 400],
  ['J09 text/plain', [['handoff', 'x.y.z']], { type: 'text/plain' }, 400],
  ['J09 a megabyte', [['handoff', 'x']], {}, 400],
]) {
  await check(name, async () => {
    const person = await newPerson()
    const page = await post(person, fields, options)
    assert.equal(page.answered.status(), status)
    await wants(page, /cannot be read/, /The form|the form/, /Nothing has happened/)
    await look(page, name.slice(4).replaceAll(/\W/g, '-'))
    await follow(page, 'Back to shop')
    await wants(page, /Your orders/)
  })
}
await check('J09 a megabyte for the shop, and a field twice', async () => {
  const person = await newPerson()
  let page = await post(person, [['user_name', 'x'], ['password', 'y']], { to: SHOP + '/sign-in' })
  assert.equal(page.answered.status(), 413)
  await wants(page, /too large/, /Nothing was done/)
  await look(page, 'shop-too-large')
  page = await post(person, [['user_name', 'alice'], ['user_name', 'bob']], { to: SHOP + '/sign-in' })
  assert.equal(page.answered.status(), 400)
  await wants(page, /could not be read/)
  page = await post(person, [['user_name', 'alice']], { to: SHOP + '/sign-in', type: 'multipart/form-data' })
  assert.equal(page.answered.status(), 415)
})

await check('J01 J03 H03 an attacker cannot make his own handoff arrive', async () => {
  const victim = await newPerson()
  const token = await control('/token?user=bob&kind=pay')
  evilPages.set('/inject', { body: formPage(`${BILLING}/handoff`, { handoff: token }) })
  await victim.page.goto(EVIL + '/inject')
  await arrived(victim.page, new RegExp(`^${BILLING}`))
  await wants(victim.page, /did not come the right way/, /Nothing has happened/)
  await look(victim.page, 'foreign-origin')
  evilPages.set('/null', { headers: { 'Referrer-Policy': 'no-referrer' }, body: formPage(`${BILLING}/handoff`, { handoff: token }) })
  await victim.page.goto(EVIL + '/null')
  await arrived(victim.page, new RegExp(`^${BILLING}`))
  await wants(victim.page, /Origin is null/, /Referrer-Policy: strict-origin/)
})

await check('J02 J05 frame, popup, fetch and form of an attacker achieve nothing', async () => {
  const victim = await newPerson()
  const page = await pay(victim, 'INV-44')
  const at = page.url()
  const attacker = await newPage(victim.context)
  evilPages.set('/frame', { body: `<iframe src="${at}"></iframe><iframe srcdoc="x"></iframe>` })
  await attacker.goto(EVIL + '/frame') // until its frames have loaded, too
  for (const frame of attacker.frames()) {
    const seen = await frame.evaluate(() => document.body?.innerText ?? '').catch(() => '')
    assert.doesNotMatch(seen, /INV-44/, 'framed')
  }
  evilPages.set('/fetch', { body: '<title>x</title>' })
  await attacker.goto(EVIL + '/fetch')
  await attacker.evaluate(async (at) => {
    for (const init of [{ method: 'POST', mode: 'no-cors', credentials: 'include' }, { method: 'POST', credentials: 'include' }, { mode: 'no-cors', credentials: 'include' }]) await fetch(at, init).catch(() => {})
    const link = document.createElement('link')
    link.rel = 'prefetch'
    link.href = at
    document.head.append(link)
  }, at)
  const opened = await attacker.evaluate((at) => {
    const popup = window.open(at)
    return new Promise((done) => setTimeout(() => {
      let reached = false
      try { reached = !!popup && popup.document.body.innerText.includes('INV-44') } catch {}
      done({ reached, length: popup ? popup.length : 0 })
    }, 1500))
  }, at)
  assert.equal(opened.reached, false)
  evilPages.set('/form', { body: formPage(at, { 'handoff-confirm': await page.$eval('input[name=handoff-confirm]', (field) => field.value) }) })
  await attacker.goto(EVIL + '/form')
  await arrived(attacker, new RegExp(`^${BILLING}`))
  await wants(attacker, /did not come the right way|is not open/, /othing has happened/)
  await page.bringToFront()
  await page.goto(at)
  await wants(page, /Pay invoice INV-44/, /Nothing happens before you confirm/)
})

await check('J05 H02 no address of a request leads anywhere', async () => {
  const person = await newPerson()
  const page = await pay(person, 'INV-46')
  const at = page.url()
  for (const trick of ['?next=//evil.example', '?return=https://evil.example', '#//evil.example', '?url=javascript:alert(1)']) {
    await page.goto(at + trick)
    assert.equal(new URL(page.url()).host, new URL(BILLING).host)
    assert.doesNotMatch(await page.content(), /evil\.example/)
  }
  for (const path of ['/handoff//evil.example', '/handoff/%2f%2fevil.example', '/handoff/../../evil.example', '/\\evil.example', '//evil.example/handoff']) {
    await page.goto(BILLING + path)
    assert.equal(new URL(page.url()).host, new URL(BILLING).host)
    await wants(page, /There is no such page/)
  }
  await look(page, 'no-page')
})

await check('J04 H05 cookies: four open and no fifth, none from a sibling, none too large', async () => {
  const person = await newPerson()
  const first = await newPage(person.context)
  await pay(person, 'INV-42', first)
  const fifth = person.page
  for (const order of ['INV-44', 'INV-46', 'INV-47']) await pay(person, order, fifth)
  await fifth.goto(SHOP + '/orders')
  await fifth.bringToFront()
  await (await button(fifth, 'INV-42')).click()
  await arrived(fifth, confirmPage)
  await wants(fifth, /Too many requests are open/, /Nothing has happened/)
  await look(fifth, 'too-many')
  const at = first.url()
  evilPages.set('/plant', { headers: { 'Set-Cookie': [`__Host-handoff-${at.slice(-22)}=evil; Domain=billing.localhost; Path=/; Secure`, `__Host-handoff-${at.slice(-22)}=evil; Path=/; Secure`] }, body: 'x' })
  await fifth.goto(SIBLING + '/plant')
  await first.reload()
  await wants(first, /Pay invoice INV-42/)
  await go(first, 'Pay 12.00 EUR')
  await wants(first, /INV-42 is paid/)
  for (const [size, kept] of [[4078, true], [4079, false]]) {
    const name = `__Host-handoff-${'A'.repeat(22)}`
    evilPages.set('/set', { headers: { 'Set-Cookie': `${name}=${'x'.repeat(size - name.length)}; Path=/; Max-Age=60; HttpOnly; Secure; SameSite=Lax` }, body: 'x' })
    const context = await browser.createBrowserContext()
    const page = await context.newPage()
    await page.goto(EVIL + '/set')
    const cookies = await page.cookies()
    console.log(`      a cookie of ${size} bytes is ${cookies.length === 1 ? 'kept' : 'dropped'}`)
    if (kept) assert.equal(cookies.length, 1)
    await context.close()
  }
})

// The single-page app, in which scripts run and see no token.
async function openApp(person, page = person.page) {
  await page.goto(SHOP + '/orders')
  await page.bringToFront()
  await (await button(page, 'Open billing')).click()
  await arrived(page, new RegExp(`^${BILLING}/app/`))
  await until('the app shows nothing', async () => /Payments/.test(await text(page)))
  return page
}
const says = (page, what, most) => until(`${what} is not shown at ${page.url()}`, async () => what.test(await text(page).catch(() => '')), most)

await check('H01 the app: opened from the shop, a payment through the shop, and back; another tab sees it', async () => {
  const person = await newPerson()
  const bodies = []
  if (chromium) person.page.on('response', (response) => { // Firefox has no bodies by WebDriver BiDi
    if (response.url().startsWith(BILLING) && !/exportPayments/i.test(response.url())) bodies.push(response.text().then((body) => [response.url(), body], () => ['', '']))
  })
  const page = await openApp(person)
  await wants(page, /INV-49/, /8\.50 EUR/, /From shop\.localhost/)
  await look(page, 'app')
  const other = await openApp(person, await newPage(person.context))
  await page.bringToFront()
  await follow(page, 'Open') // a place
  await clickOn(page, 'a[aria-label^="Pay INV-49"]')
  await wants(page, /Your order INV-49/)
  await look(page, 'order')
  await (await button(page, 'INV-49')).click()
  await arrived(page, confirmPage)
  await go(page, 'Pay 8.50 EUR')
  await wants(page, /INV-49 is paid/)
  await other.bringToFront()
  await until('the other tab does not see the payment', () => other.evaluate(() => [...document.querySelectorAll('ul[aria-label=Payments] .id')].some((id) => id.textContent === 'INV-49')))
  await look(other, 'app-paid')
  await page.bringToFront()
  await follow(page, 'Go on here')
  await says(page, /Payments/)
  for (const [url, body] of await Promise.all(bodies)) assert.doesNotMatch(body, /eyJ/, url)
})

await check("another person's visit in another tab: the app shows theirs, and nothing of the first", async () => {
  await newPerson('bob')
  const person = await newPerson()
  const page = await openApp(person)
  await says(page, /INV-42/)
  const other = await newPage(person.context)
  await person.context.setCookie(sessions.get('bob'))
  await openApp(person, other)
  await says(other, /INV-43/)
  await page.bringToFront()
  await page.evaluate(() => document.dispatchEvent(new Event('visibilitychange'))) // without a head, all tabs are looked at
  await says(page, /INV-43/)
  assert.doesNotMatch(await text(page), /INV-4[246-9]/)
})

await check('the app, begun again while it begins, shows what was begun last', async () => {
  const person = await newPerson()
  await openApp(person)
  const { page } = person
  const failed = await page.evaluate(async () => {
    for (let i = 0; i < 40; i++) {
      window.dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))
      await new Promise((go) => setTimeout(go, 5 * (i % 8)))
      if (document.querySelector('.warning') !== null) return document.body.innerText
    }
    return ''
  })
  assert.equal(failed, '')
  await wants(page, /Your invoices/, /INV-42/)
})

await check('the app without invoices', async () => {
  const page = await openApp(await newPerson('guest-1'))
  await wants(page, /no invoices here yet/, /No payments yet/)
  await look(page, 'app-empty')
})

await check('signing out at the shop ends the app', async () => {
  const person = await newPerson('alice', { own: true })
  const page = await openApp(person)
  const shop = await newPage(person.context)
  await shop.goto(SHOP + '/orders')
  await go(shop, 'Sign out')
  const began = Date.now()
  await says(page, /You are signed out/)
  console.log(`      the app says so after ${Date.now() - began} ms`)
  await wants(page, /You signed out where you came from/)
  assert.doesNotMatch(await text(page), /INV-/)
  await look(page, 'app-signed-out')
  const answer = await page.evaluate(async () => (await fetch('/rpc/handoff.server2.v1.InvoiceService/ListInvoices', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{}' })).status)
  assert.equal(answer, 401)
})

await check('a visit that is over is renewed by a navigation, which keeps the place', async () => {
  const person = await newPerson()
  const { page } = person
  await send(person, await control('/visit?user=alice&lifetime=20s'))
  await says(page, /Payments/)
  await page.evaluate(() => { location.hash = '#open' })
  await says(page, /Your visit is over at/) // the last minute
  await look(page, 'app-last-minute')
  await says(page, /Your visit has ended/, 40000)
  await look(page, 'app-expired')
  await follow(page, 'Go on')
  await arrived(page, new RegExp(`^${BILLING}/app/#open$`))
  await says(page, /Payments/)
})

await check('the app outlives a restart of billing, which remembers nothing of it', async () => {
  const page = await openApp(await newPerson())
  await control('/restart-billing')
  await until('the app is not live again', async () => !/cannot be (reached|read)/.test(await text(page)) && /Payments/.test(await text(page)))
})

await check('the app says so while its server cannot know who is signed out, and goes on by itself', async () => {
  const page = await openApp(await newPerson())
  await control('/stop-shop')
  await says(page, /cannot be (reached|read)/)
  await look(page, 'app-unreachable')
  await control('/start-shop')
  await until('the app does not go on', async () => !/cannot be (reached|read)/.test(await text(page)) && /Payments/.test(await text(page)), 40000)
})

await check('J06 a script in the app reads no token and pays nothing, with a handoff pending in another tab', async () => {
  const person = await newPerson()
  const app = await openApp(person)
  const pending = await pay(person, 'INV-44', await newPage(person.context))
  const at = pending.url()
  const before = violations.length
  await app.bringToFront()
  const got = await app.evaluate(async (at) => {
    const found = [document.cookie, JSON.stringify([{ ...localStorage }, { ...sessionStorage }])]
    if (window.cookieStore) found.push(JSON.stringify(await cookieStore.getAll()))
    if (window.indexedDB?.databases) found.push(JSON.stringify(await indexedDB.databases()))
    const ask = async (url, init) => { try { const r = await fetch(url, init); found.push(JSON.stringify([...r.headers]), await r.text()); return r.status } catch { return 'failed' } }
    const call = { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ invoiceId: 'INV-44', amount: { currencyCode: 'EUR', minorUnits: '500' }, requestId: crypto.randomUUID() }) }
    const statuses = {
      visit: await ask('/visit'), page: await ask(at), confirm: await ask(at, { method: 'POST' }),
      cors: await ask(at, { method: 'POST', mode: 'same-origin', body: new URLSearchParams() }), pay: await ask('/rpc/handoff.server2.v1.InvoiceService/PayInvoice', call),
    }
    navigator.sendBeacon(at, new URLSearchParams())
    const framed = document.createElement('iframe')
    framed.src = at
    document.body.append(framed)
    for (const target of ['_self', '_blank']) {
      const form = document.createElement('form')
      Object.assign(form, { method: 'post', action: at, target })
      document.body.append(form)
      try { form.submit() } catch {} // Firefox says what the policy forbids
    }
    const worker = navigator.serviceWorker ? await navigator.serviceWorker.register('/app/app.js').then(() => 'registered', () => 'refused') : 'none'
    // Windows of each address that is not a page of its own: what a form could be put into.
    const reached = []
    for (const url of [at, '/visit', '/rpc/x', '/app/app.js', '/app/none', '/none', 'about:blank', URL.createObjectURL(new Blob(['<p>x'], { type: 'text/html' }))]) {
      const popup = window.open(url, '_blank')
      await new Promise((go) => setTimeout(go, 700))
      try {
        if (/Pay invoice/.test(popup.document.body.innerText)) reached.push(url)
        const form = popup.document.createElement('form')
        Object.assign(form, { method: 'post', action: at })
        popup.document.body.append(form)
        form.submit()
        await new Promise((go) => setTimeout(go, 700))
      } catch {}
      popup?.close()
    }
    return { found: found.join('\n'), statuses, worker, reached, frame: framed.contentDocument?.body?.innerText ?? '' }
  }, at)
  assert.doesNotMatch(got.found, /eyJ|__Host-/)
  assert.deepEqual(got.statuses, { visit: 200, page: 403, confirm: 403, cors: 403, pay: 403 })
  assert.notEqual(got.worker, 'registered')
  assert.deepEqual(got.reached, [])
  assert.doesNotMatch(got.frame, /INV-44/)
  // The HTTP server's own answer to a header that is too large has no policy at all. A
  // script brings it about by cookies of a path, and can write into it. Over HTTP/2 it
  // comes only where no frame follows the one in which there is too much.
  await app.bringToFront()
  await app.evaluate(() => {
    for (let i = 0; i < 14; i++) document.cookie = `crowd-${i}=${'X'.repeat(3000)}; path=/app/crowd; secure`
    window.bare = window.open('/app/crowd/x', '_blank')
  })
  await until('the script has no bare window', () => app.evaluate(() => { try { return /431/.test(window.bare.document.body.innerText) } catch { return false } }))
  await app.evaluate((at) => {
    const form = window.bare.document.createElement('form')
    Object.assign(form, { method: 'post', action: at })
    for (const [name, value] of [['memo', 'x'], ['handoff-confirm', 'A'.repeat(43)]]) {
      const field = window.bare.document.createElement('input')
      Object.assign(field, { name, value })
      form.append(field)
    }
    window.bare.document.body.append(form)
    form.submit()
  }, at)
  const posted = await until('the form in the bare window is not answered', async () => {
    for (const page of await person.context.pages()) {
      if (page !== pending && page.url() === at && /did not come the right way/.test(await text(page).catch(() => ''))) return page
    }
  })
  await wants(posted, /Nothing has happened/)
  await look(posted, 'confirmed-by-a-script')
  await follow(posted, 'Go on here')
  assert.equal(await posted.evaluate(() => document.referrer), '', 'the app is told the address of a handoff')
  violations.length = before // which is what has held the script back
  await pending.bringToFront()
  await pending.goto(at)
  await wants(pending, /Pay invoice INV-44/, /Nothing happens before you confirm/)
})

await check('J06 with the pages on a host of their own, a script in the app does not confirm by a form either', async () => {
  const person = await newPerson()
  const pending = await pay(person, 'INV-44')
  const at = pending.url()
  const app = await newPage(person.context) // the app's host; no policy keeps this page from posting forms
  const proof = await pending.$eval('input[name=handoff-confirm]', (field) => field.value) // which no script has: all else is right
  evilPages.set('/app', { body: formPage(at, { 'handoff-confirm': proof }) })
  await app.goto(SIBLING + '/app')
  await arrived(app, new RegExp(`^${BILLING}`))
  await wants(app, /did not come the right way/, /Nothing has happened/)
  await pending.bringToFront()
  await pending.reload()
  await wants(pending, /Pay invoice INV-44/, /Nothing happens before you confirm/)
})

await check('J07 no call from another origin reaches a handler', async () => {
  const person = await newPerson()
  await openApp(person)
  const attacker = await newPage(person.context)
  evilPages.set('/calls', { body: '<title>x</title>' })
  await attacker.goto(SIBLING + '/calls') // the same site: the cookie comes
  const url = `${BILLING}/rpc/handoff.server2.v1.InvoiceService/ListInvoices`
  const got = await attacker.evaluate(async (url, visit) => {
    const tried = []
    for (const init of [
      { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{}' },
      { method: 'POST', body: '{}' },
      { method: 'POST', mode: 'no-cors', body: '{}' },
      { method: 'POST', mode: 'no-cors', body: new URLSearchParams({ a: 'b' }) },
      { method: 'GET', mode: 'no-cors' },
    ]) tried.push(await fetch(url, { credentials: 'include', ...init }).then((response) => `${response.type} ${response.status}`, () => 'failed'))
    tried.push(await fetch(visit, { credentials: 'include' }).then(() => 'read', () => 'failed'))
    tried.push(await new Promise((done) => {
      const socket = new WebSocket(url.replace('https', 'wss'))
      socket.onopen = () => done('open')
      socket.onerror = () => done('failed')
    }))
    return tried
  }, url, `${BILLING}/visit`)
  for (const one of got) assert.match(one, /^(failed|opaque 0)$/) // it depends on the browser what Cross-Origin-Resource-Policy leaves
  assert.ok(await control('/refused-calls') > 0, 'nothing has come as far as billing')
  evilPages.set('/form-call', { body: `<form method="post" enctype="text/plain" action="${url}"><input name='{"a":"' value='"}'></form><script>document.forms[0].submit()</script>` })
  await Promise.all([attacker.waitForNavigation(), attacker.goto(SIBLING + '/form-call')]).catch(() => {})
  await until('the form is not answered', async () => attacker.url().startsWith(BILLING))
  assert.match(await text(attacker), /invalid_argument/)
})

await check('a stale trust list: 503, and the same page works later', async () => {
  const person = await newPerson()
  const page = await pay(person, 'INV-46')
  const at = page.url()
  await control('/stop-shop')
  const other = await newPage(person.context)
  await until('the list is not stale', async () => (await other.goto(at)).status() === 503)
  await page.bringToFront()
  const [response] = await Promise.all([page.waitForNavigation(), (await button(page, 'Pay 7.00 EUR')).click()])
  assert.equal(response.status(), 503)
  assert.equal(response.headers()['retry-after'], '5')
  await wants(page, /does not work at the moment/, /nothing has happened/)
  await look(page, 'stale')
  await control('/start-shop')
  await until('the list stays stale', async () => (await other.goto(at)).status() === 200)
  await follow(page, 'Try again')
  assert.equal(page.url(), at)
  await go(page, 'Pay 7.00 EUR')
  await wants(page, /INV-46 is paid/)
})

await check('J08 overload: 503, nothing is spent, and the same page works later', async () => {
  const person = await newPerson()
  const page = await pay(person, 'INV-48')
  const at = page.url()
  const pressed = await button(page, 'Pay 19.00 EUR')
  const others = crowd()
  try {
    await others.full
    const [response] = await Promise.all([page.waitForNavigation(), pressed.click()])
    assert.equal(response.status(), 503)
    assert.equal(response.headers()['retry-after'], '5')
    await wants(page, /does not work at the moment/, /too much to do/, /nothing has happened/)
    await look(page, 'overload')
  } finally {
    others.end()
  }
  await follow(page, 'Try again')
  assert.equal(page.url(), at)
  await go(page, 'Pay 19.00 EUR')
  await wants(page, /INV-48 is paid/)
})

await check('the whole way over HTTP/1.1, and each form that is refused', async () => {
  const old = await launch({ http2: false })
  const person = await newPerson('alice', { from: old })
  const protocol = () => person.page.evaluate(() => performance.getEntriesByType('navigation')[0].nextHopProtocol)
  const page = await pay(person, 'INV-47')
  assert.equal(await protocol(), 'http/1.1')
  await go(page, 'Pay 3.00 EUR')
  await wants(page, /INV-47 is paid/)
  for (const [fields, options] of [[[['handoff', 'x'], ['handoff', 'x.y']], {}], [[['handoff', 'x']], {}], [[['handoff', 'x.y']], { type: 'multipart/form-data' }]]) {
    await post(person, fields, options)
    await wants(page, /cannot be read/, /Nothing has happened/)
  }
  contexts.pop()
  await old.close()
})

await check('J09 slow bodies are answered, and nothing is held', async () => {
  await until('a body is waited for', () => slowOnes.every((one) => one.answer || one.error))
  for (const { name, status, answer, error } of slowOnes) {
    assert.equal(error, undefined, name)
    assert.equal(answer.status, status, name)
    assert.ok(answer.seconds < 25, `${name} took ${answer.seconds} s`)
  }
})

await check('expired while reading: the page says so by itself', async () => {
  for (let left = 600; left > 0 && !/expired/.test(await text(reader.page).catch(() => '')); left--) await sleep(100)
  await wants(reader.page, /expired/, /nothing has happened/)
  await look(reader.page, 'expired')
  await follow(reader.page, 'Back to shop')
})

await check('no page has violated its Content-Security-Policy', async () => {
  assert.deepEqual(violations, [])
})

await browser.close()
evil.close()
evil.closeAllConnections()
console.log(`${failures} failed, after ${((Date.now() - began) / 1000).toFixed(0)} s`)
process.exit(failures ? 1 : 0)
