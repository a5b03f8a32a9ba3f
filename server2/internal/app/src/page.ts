// Elements, made without markup: nothing that a server says is ever parsed as HTML.

type Child = Node | string | null | undefined

export function make<K extends keyof HTMLElementTagNameMap>(tag: K, attributes: Record<string, string>, ...children: Child[]): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  element.append(...children.filter((child) => child !== null && child !== undefined))
  return element
}

export const link = (text: string, to: string, kind = 'button') => make('a', { href: to, class: kind }, text)

export function button(text: string, press: () => void, kind = 'button second'): HTMLButtonElement {
  const element = make('button', { type: 'button', class: kind }, text)
  element.addEventListener('click', press)
  return element
}

// show puts these in the place of what is in an element.
export function show(where: string, ...children: Child[]): void {
  document.getElementById(where)?.replaceChildren(...children.filter((child) => child !== null && child !== undefined))
}

// address returns an address that a link may have, or nothing: one of another scheme is
// none, even in the configuration.
export function address(text: string | undefined): string | undefined {
  if (text === undefined) return undefined
  const url = new URL(text, location.href)
  return url.protocol === 'https:' || url.protocol === location.protocol ? url.href : undefined
}
