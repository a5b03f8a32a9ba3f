// Package clients tries the clients in other languages, by the lines of README.md, against
// the real servers as processes of their own.
//
//	make clients
package clients
