// The visit: whose it is and until when, as this server tells. The token itself is in a
// cookie that no script can read.

export type Visit = { issuer: string, subject: string, expires: string, renew?: string, return?: string }

// Over is why there is no visit, and where there is another.
export type Over = { reason: string, renew?: string }

// ask returns the visit, or why there is none. It throws where neither can be known.
export async function ask(): Promise<{ visit: Visit } | { over: Over }> {
  const response = await fetch('/visit', { headers: { Accept: 'application/json' } })
  if (response.status === 401) return { over: await response.json() as Over }
  if (!response.ok) throw new Error(`/visit answers ${response.status}`)
  return { visit: await response.json() as Visit }
}

// end has the browser forget the visit. Signing out where it was begun ends it for good.
export async function end(): Promise<void> {
  const response = await fetch('/visit/end', { method: 'POST' })
  if (!response.ok) throw new Error(`/visit/end answers ${response.status}`)
}
