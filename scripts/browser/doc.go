// Package browser drives Debian's Chromium and Firefox through a handoff, between
// the real servers as processes, over TLS and under two host names. story.mjs is what
// the browsers do, by puppeteer-core; the test starts the servers, and does what the
// story asks for outside of a browser.
//
//	make browser
//	HANDOFF_BROWSER='stale' go test ./scripts/browser -run /chromium # one scene; 1: all
package browser
