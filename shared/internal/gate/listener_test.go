package gate

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"time"
)

// It is told once a minute how many connections were closed for want of room.
func TestTells(t *testing.T) {
	var told []string
	g := New(1).Listener(nil, func(idleClosed, refused int, last net.Addr) {
		told = append(told, fmt.Sprint(idleClosed, " ", refused, " ", last))
	})
	now := time.Now()
	last := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 7}
	for range 5 {
		g.refused++
		g.idleClosed += 2
		g.note(last, now)
	}
	g.note(last, now.Add(tellAgain))
	if want := []string{"2 1 192.0.2.1:7", "8 4 192.0.2.1:7"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}
