package server1

import (
	"context"
	"fmt"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// newTerminal returns a terminal, and whether it shows what is typed.
func newTerminal(t *testing.T) (terminal *os.File, shows func() bool) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("there are no terminals here:", err)
	}
	t.Cleanup(func() { master.Close() }) // and so ends what still reads
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetUint32(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	return terminal, func() bool {
		settings, err := unix.IoctlGetTermios(int(master.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return settings.Lflag&unix.ECHO != 0
	}
}

// Who interrupts the question for a password ends the command, and has a terminal that
// shows what they type.
func TestInterruptedAtTheQuestion(t *testing.T) {
	t.Parallel()
	terminal, shows := newTerminal(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var said servingtest.Log
	status := make(chan int, 1)
	args := []string{"user", "add", "--database=" + t.TempDir() + "/db", "--name=alice"}
	go func() { status <- run(ctx, args, nil, terminal, io.Discard, &said) }()
	servingtest.Eventually(t, "it asks, and shows nothing", func() bool { return !shows() })
	cancel()
	if got := <-status; got != 1 || said.String() != "Password of alice: \n"+program+": interrupted\n" {
		t.Errorf("status %d, %q", got, &said)
	}
	if !shows() {
		t.Error("the terminal does not show what is typed")
	}
}

// interrupting is a standard input that has nothing, and whose reader is interrupted.
type interrupting struct {
	interrupt func()
	until     <-chan struct{}
}

func (i interrupting) Read([]byte) (int, error) {
	i.interrupt()
	<-i.until
	return 0, io.EOF
}

// Nor does it wait for a pipe.
func TestInterruptedAtAPipe(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var said servingtest.Log
	status := run(ctx, []string{"user", "add", "--database=" + t.TempDir() + "/db", "--name=alice"}, nil, interrupting{cancel, t.Context().Done()}, io.Discard, &said)
	if want := program + ": reading the password from standard input: interrupted\n"; status != 1 || said.String() != want {
		t.Errorf("status %d, %q", status, &said)
	}
}
