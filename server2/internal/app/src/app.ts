import { Code, ConnectError, createClient } from '@connectrpc/connect'
import { createConnectTransport } from '@connectrpc/connect-web'
import { timestampDate } from '@bufbuild/protobuf/wkt'

import { InvoiceService, type Invoice, type Money, type Payment } from '../gen/handoff/server2/v1/invoice_service_pb'
import { address, button, link, make, show } from './page'
import { ask, end, type Over, type Visit } from './visit'

const service = createClient(InvoiceService, createConnectTransport({ baseUrl: '/rpc' }))

let visit: Visit | undefined // as long as it counts
let person = '' // whose invoices and payments these are
const invoices = new Map<string, Invoice>()
const payments = new Map<string, Payment>() // oldest first
let fresh: string | undefined // an invoice that has just been paid
let due = false // what came in is about to be shown
let interrupted = false // what is shown may be old
let doing = new AbortController() // what was begun last: all that has a signal of before ends
let lastMinute = 0 // timers
let over = 0

// start shows the app from the beginning, also after it has failed.
async function start(): Promise<void> {
  const signal = begin()
  loading()
  try {
    const asked = await ask()
    if (signal.aborted) return
    if ('over' in asked) return signedOut(asked.over)
    visit = asked.visit
    if (whose(visit) !== person) forget()
    person = whose(visit)
    await read(signal)
  } catch (error) {
    if (signal.aborted) return
    return failed(error)
  }
  if (signal.aborted) return
  watchTheTime(visit)
  shown()
  void follow(signal)
}

const whose = ({ issuer, subject }: Visit) => `${issuer} ${subject}` // no issuer has a space

// forget forgets what one person was shown, before another is shown theirs.
function forget(): void {
  person = ''
  invoices.clear()
  payments.clear()
  fresh = undefined
}

// another begins again where another person's visit has begun in another tab: the
// browser has one visit, and each call is made with that.
async function another(): Promise<void> {
  const { signal } = doing
  try {
    const asked = await ask()
    if (!signal.aborted && 'visit' in asked && visit !== undefined && whose(asked.visit) !== person) await start()
  } catch {} // what is shown is still this person's
}

// begin ends what is being done, and returns the signal of what begins: a call that has
// waited looks at it first, so that what began last has the last word.
function begin(): AbortSignal {
  doing.abort()
  doing = new AbortController()
  clearTimeout(lastMinute)
  clearTimeout(over)
  return doing.signal
}

// read reads all invoices again.
async function read(signal: AbortSignal): Promise<void> {
  const found = new Map<string, Invoice>()
  for (let pageToken = ''; ;) {
    const page = await service.listInvoices({ pageToken }, { signal })
    for (const invoice of page.invoices) found.set(invoice.invoiceId, invoice)
    pageToken = page.nextPageToken
    if (pageToken === '') break
  }
  signal.throwIfAborted()
  invoices.clear()
  for (const [id, invoice] of found) invoices.set(id, invoice)
}

// follow shows payments as they are made, until the visit is over. A stream ends now and
// then; that is said only where there is no other.
async function follow(signal: AbortSignal): Promise<void> {
  for (let wait = 500; ; wait = Math.min(2 * wait, 15000)) {
    try {
      for await (const { payment } of service.exportPayments({ follow: true }, { signal })) {
        wait = 500
        if (interrupted) calm()
        if (payment !== undefined) took(payment)
      }
    } catch (error) {
      if (signal.aborted) return
      if (ConnectError.from(error).code === Code.Unauthenticated) return ended()
    }
    await new Promise((go) => setTimeout(go, wait))
    if (signal.aborted) return
    try {
      const asked = await ask()
      if (signal.aborted) return
      if ('over' in asked) return signedOut(asked.over)
      if (whose(asked.visit) !== person) return await start()
      await read(signal)
      calm()
    } catch (error) {
      if (signal.aborted) return
      if (error instanceof ConnectError && error.code === Code.Unauthenticated) return ended()
      interrupted = true
      shown()
    }
  }
}

function calm(): void {
  interrupted = false
  shown()
}

// took takes note of a payment. Many can come at once.
function took(payment: Payment): void {
  if (payments.has(payment.paymentId)) return
  payments.set(payment.paymentId, payment)
  const invoice = invoices.get(payment.invoiceId)
  if (invoice !== undefined && invoice.payment === undefined) {
    invoice.payment = payment
    fresh = payment.invoiceId
  }
  if (!due) {
    due = true
    setTimeout(() => {
      due = false
      if (visit !== undefined && invoices.size + payments.size > 0) shown(fresh)
      fresh = undefined
    }, 50)
  }
}

// ended asks why the visit does not count any more.
async function ended(): Promise<void> {
  const signal = begin()
  try {
    const asked = await ask()
    if (signal.aborted) return
    if ('over' in asked) return signedOut(asked.over)
    return start() // it is another one, begun in another tab
  } catch (error) {
    if (!signal.aborted) failed(error)
  }
}

// watchTheTime says so before the visit is over, and when it is.
function watchTheTime({ expires }: Visit): void {
  const left = Date.parse(expires) - Date.now()
  lastMinute = window.setTimeout(() => shown(), Math.max(0, left - 60_000))
  over = window.setTimeout(() => void ended(), Math.max(1000, left + 500))
}

function loading(): void {
  show('main', make('h1', {}, 'Your invoices'), make('p', { role: 'status', class: 'hidden' }, 'Loading your invoices'),
    ...[1, 2, 3].map(() => make('div', { class: 'wait', 'aria-hidden': 'true' })))
  show('who')
  show('foot')
}

// The places of the app. Renewal is a navigation that comes back to the same one.
const places: [name: string, hash: string, has: (invoice: Invoice) => boolean][] = [
  ['All', '#all', () => true],
  ['Open', '#open', (invoice) => invoice.payment === undefined],
  ['Paid', '#paid', (invoice) => invoice.payment !== undefined],
]
const place = () => places.find(([, hash]) => hash === location.hash) ?? places[0]!
const placeKept = 'place'
const mostPayments = 200 // the newest, that are shown

// away leads to an address of the shop's, and remembers the place.
// The shop is told which site leads there, and not from where in it: it goes on by itself
// for nobody else's links.
function away(element: HTMLAnchorElement): HTMLAnchorElement {
  element.referrerPolicy = 'origin'
  element.addEventListener('click', () => sessionStorage.setItem(placeKept, location.hash))
  return element
}

// shown shows invoices and payments. A fresh payment's invoice is pointed out.
function shown(paid?: string): void {
  if (visit === undefined) return
  const focused = document.activeElement?.getAttribute('href')
  const [name, here, has] = place()
  const some = [...invoices.values()].filter(has)
  const hosts = new URL(visit.issuer).hostname
  const renew = address(visit.renew)
  show('who', 'From ', make('strong', {}, hosts))
  show('main',
    make('h1', {}, 'Your invoices'),
    interrupted ? make('p', { class: 'sheet warning', role: 'status' }, 'Billing cannot be reached at the moment. What you see may be old; this page tries again by itself.') : null,
    Date.parse(visit.expires) - Date.now() < 61_000 && renew !== undefined
      ? make('div', { class: 'sheet warning', role: 'status' }, make('p', {}, `Your visit is over at ${time(new Date(visit.expires))}.`), make('p', {}, away(link('Go on', renew))))
      : null,
    make('nav', { 'aria-label': 'Which invoices' }, ...places.map(([text, hash]) => {
      const to = link(text, hash, '')
      if (hash === here) to.setAttribute('aria-current', 'true')
      return to
    })),
    some.length > 0 ? make('ul', { 'aria-label': `${name} invoices` }, ...some.map((invoice) => invoiceItem(invoice, invoice.invoiceId === paid)))
      : make('p', { class: 'sheet empty' }, invoices.size === 0 ? 'You have no invoices here yet. They appear when you have ordered something.' : here === '#open' ? 'Nothing is open: you have paid everything.' : 'You have paid nothing yet.'),
    make('h2', {}, 'Payments'),
    payments.size > 0 ? make('ul', { 'aria-label': 'Payments' }, ...[...payments.values()].slice(-mostPayments).reverse().map(paymentItem))
      : make('p', { class: 'sheet empty' }, 'No payments yet. They appear here by themselves as they are made.'),
    make('p', { class: 'hidden', role: 'status' }, paid === undefined ? '' : `${paid} is paid`),
  )
  show('foot', make('p', {}, `You see this until ${time(new Date(visit.expires))}, or until you sign out at ${hosts}.`), button('Close', close))
  if (focused !== null && focused !== undefined) document.querySelector<HTMLAnchorElement>(`a[href="${CSS.escape(focused)}"]`)?.focus()
}

function invoiceItem(invoice: Invoice, paid: boolean): HTMLLIElement {
  const id = invoice.invoiceId
  const back = address(visit?.return)
  return make('li', paid ? { class: 'fresh' } : {},
    make('span', { class: 'id' }, id), make('span', { class: 'amount' }, amount(invoice.amount)),
    invoice.payment !== undefined ? make('span', { class: 'note paid' }, `Paid ${day(invoice.payment)}`) : make('span', { class: 'note' }, 'Open'),
    invoice.payment !== undefined || back === undefined ? null : named(away(link('Pay', back + encodeURIComponent(id))), `Pay ${id}, ${amount(invoice.amount)}`),
  )
}

function paymentItem(payment: Payment): HTMLLIElement {
  return make('li', {},
    make('span', { class: 'id' }, payment.invoiceId), make('span', { class: 'amount' }, amount(payment.amount)),
    make('span', { class: 'note' }, payment.memo === '' ? day(payment) : `${day(payment)} · ${payment.memo}`),
  )
}

function named<E extends Element>(element: E, name: string): E {
  element.setAttribute('aria-label', name)
  return element
}

function amount(money: Money | undefined): string {
  if (money === undefined) return ''
  const text = money.minorUnits.toString().padStart(3, '0')
  return `${text.slice(0, -2)}.${text.slice(-2)} ${money.currencyCode}`
}

const time = (at: Date) => at.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' })
const day = (payment: Payment) => payment.payTime === undefined ? '' : timestampDate(payment.payTime).toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' })

// why is how a reason is put to the person who reads it.
const why: Record<string, string> = {
  TOKEN_MISSING: 'Open your invoices from where you have ordered.',
  TOKEN_EXPIRED: 'Your visit has ended, as each does after a while.',
  TOKEN_REVOKED: 'You signed out where you came from, so you are signed out here too.',
}

function signedOut(end: Over): void {
  begin()
  visit = undefined
  forget()
  const renew = address(end.renew)
  show('who')
  show('foot')
  show('main', make('h1', {}, 'You are signed out'), make('div', { class: 'sheet', role: 'alert' },
    make('p', {}, why[end.reason] ?? 'Your visit does not count here any more.'),
    renew === undefined ? null : make('p', {}, away(link(end.reason === 'TOKEN_EXPIRED' ? 'Go on' : `Sign in at ${new URL(renew).hostname}`, renew)))))
}

function failed(error: unknown): void {
  const signal = begin()
  if (!(error instanceof ConnectError && error.code === Code.Unauthenticated)) return unreachable()
  const unless = (then: () => void) => { if (!signal.aborted) then() }
  void ask().then((asked) => unless(() => 'over' in asked ? signedOut(asked.over) : unreachable()), () => unless(unreachable))
}

let retry = 0
function unreachable(): void {
  clearTimeout(retry)
  visit = undefined
  show('foot')
  show('main', make('h1', {}, 'Your invoices'), make('div', { class: 'sheet warning', role: 'alert' },
    make('p', {}, 'Your invoices cannot be read at the moment. Nothing is lost; this page tries again by itself.'),
    make('p', {}, button('Try again', () => void start(), 'button'))))
  retry = window.setTimeout(() => { if (document.querySelector('.warning') !== null) void start() }, 5000)
}

async function close(): Promise<void> {
  try {
    await end()
  } catch {
    return unreachable()
  }
  const renew = visit?.renew
  signedOut(renew === undefined ? { reason: 'TOKEN_MISSING' } : { reason: 'TOKEN_MISSING', renew })
}

const kept = sessionStorage.getItem(placeKept)
sessionStorage.removeItem(placeKept)
if (kept !== null && location.hash === '') history.replaceState(null, '', location.pathname + kept)
window.addEventListener('hashchange', () => shown())
document.addEventListener('visibilitychange', () => { if (document.visibilityState === 'visible') void another() })
window.addEventListener('pageshow', (event) => { if (event.persisted) void start() })
void start()
