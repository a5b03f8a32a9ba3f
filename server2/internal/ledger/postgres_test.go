package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

func TestPostgres(t *testing.T) {
	t.Parallel()
	server := servingtest.StartPostgres(t)
	t.Run("side by side", func(t *testing.T) { testPostgres(t, server) })
	t.Run("kill -9", func(t *testing.T) { testPostgresKilled(t, server) })
}

// testPostgres has each test use a database of its own: some do little but wait.
func testPostgres(t *testing.T, server *servingtest.PostgresServer) {
	for name, test := range every {
		t.Run(name, func(t *testing.T) {
			database := server.Database(t)
			t.Parallel()
			test(t, open(t, database))
		})
	}
	for name, test := range map[string]func(*testing.T, string){
		"replicas start at once":  testReplicasStart,
		"a locked table":          testPostgresLocked,
		"a full disk":             testPostgresFull,
		"the answer is lost":      testAnswerLost,
		"reopened":                testPostgresReopen,
		"refused":                 testPostgresRefused,
		"a newer program's":       testPostgresNewer,
		"deadlocked":              testDeadlock,
		"a connection that hangs": testHangs,
	} {
		t.Run(name, func(t *testing.T) {
			database := server.Database(t)
			t.Parallel()
			test(t, database)
		})
	}
}

// Replicas that start at once on an empty database make its tables once.
func testReplicasStart(t *testing.T, database string) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			db, err := Open(t.Context(), database)
			if err != nil {
				t.Error(err)
				return
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// A lock that another session holds makes a payment unavailable, in good time,
// and nothing is kept of it when the lock is gone.
func testPostgresLocked(t *testing.T, database string) {
	db := open(t, database)
	lock, err := db.engine.(postgreSQL).Write.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Rollback()
	if _, err := lock.Exec(`LOCK TABLE payments IN SHARE MODE`); err != nil { // which lets others read
		t.Fatal(err)
	}
	start := time.Now()
	_, _, err = db.Pay(t.Context(), order("r1", "h1"))
	unavailable(t, err)
	if took := time.Since(start); took > patience+late {
		t.Errorf("it took %s", took)
	}
	if in, err := db.Invoice(t.Context(), alice, "INV-1"); err != nil || in.Payment != nil {
		t.Error("reading beside the lock:", in, err)
	}
	if err := lock.Rollback(); err != nil {
		t.Fatal(err)
	}
	if n := count(t, db); n != 0 {
		t.Error(n, "payments once the lock is gone")
	}
	if _, repeated, err := db.Pay(t.Context(), order("r1", "h1")); repeated || err != nil {
		t.Error("once it is free:", repeated, err)
	}
}

// A disk that is full, when the row is written or when it is committed, is
// unavailable and keeps nothing. A trigger stands for it, with the server's own
// error.
func testPostgresFull(t *testing.T, database string) {
	db := open(t, database)
	if _, err := db.engine.(postgreSQL).Write.Exec(`CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = 'disk_full'; END $$`); err != nil {
		t.Fatal(err)
	}
	for when, trigger := range map[string]string{
		"the insert": `CREATE TRIGGER full_disk AFTER INSERT ON payments FOR EACH ROW EXECUTE FUNCTION full_disk()`,
		"the commit": `CREATE CONSTRAINT TRIGGER full_disk AFTER INSERT ON payments DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION full_disk()`,
	} {
		if _, err := db.engine.(postgreSQL).Write.Exec(trigger); err != nil {
			t.Fatal(err)
		}
		_, _, err := db.Pay(t.Context(), order("r1", "h1"))
		unavailable(t, err)
		if errors.Is(err, ErrUncertain) {
			t.Errorf("at %s: the server has said that it is not committed: %v", when, err)
		}
		if n := count(t, db); n != 0 {
			t.Errorf("at %s: %d payments", when, n)
		}
		if _, err := db.engine.(postgreSQL).Write.Exec(`DROP TRIGGER full_disk ON payments`); err != nil {
			t.Fatal(err)
		}
	}
	if _, repeated, err := db.Pay(t.Context(), order("r1", "h1")); repeated || err != nil {
		t.Error("once there is room:", repeated, err)
	}
}

// relay stands between the ledger and its server, and cuts a connection in the
// middle of a commit.
type relay struct {
	listener net.Listener
	socket   string
	deliver  atomic.Bool  // the commit reaches the server before the connection is cut
	cuts     atomic.Int64 // how many are still to be cut
	down     atomic.Bool  // nobody gets a connection
	silent   atomic.Bool  // nobody gets an answer
}

// newRelay returns a relay to a database and the URL through it.
func newRelay(t *testing.T, database string) (*relay, string) {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{socket: filepath.Join(u.Query().Get("host"), ".s.PGSQL.5432")}
	if r.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.listener.Close() })
	go func() {
		for {
			conn, err := r.listener.Accept()
			if err != nil {
				return
			}
			go r.serve(conn)
		}
	}()
	u.Host, u.RawQuery = r.listener.Addr().String(), "sslmode=disable"
	return r, u.String()
}

func (r *relay) serve(client net.Conn) {
	defer client.Close()
	if r.down.Load() {
		return
	}
	server, err := net.Dial("unix", r.socket)
	if err != nil {
		return
	}
	defer server.Close()
	var cut atomic.Bool
	go func() {
		defer client.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if err != nil || cut.Load() {
				return
			}
			for r.silent.Load() {
				time.Sleep(time.Millisecond)
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if bytes.Contains(buf[:n], []byte("commit\x00")) && r.cuts.Add(-1) >= 0 {
			cut.Store(true)
			if r.deliver.Load() {
				_, _ = server.Write(buf[:n])
				_, _ = server.Read(make([]byte, 1)) // it has answered
			}
			return
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// A caller who loses the answer to a commit is told what became of it: the payment is
// made once, whether or not the lost commit made it.
func testAnswerLost(t *testing.T, database string) {
	r, through := newRelay(t, database)
	db := open(t, through)
	for i, delivered := range []bool{false, true} {
		r.deliver.Store(delivered)
		r.cuts.Store(1)
		o := order(fmt.Sprint("r", i), fmt.Sprint("h", i))
		o.InvoiceID = fmt.Sprint("INV-", i+1)
		p, repeated, err := db.Pay(t.Context(), o)
		if err != nil || repeated || p.HandoffID != o.HandoffID {
			t.Errorf("delivered %v: %v, repeated %v, %v", delivered, p, repeated, err)
		}
		if r.cuts.Load() > 0 {
			t.Fatal("nothing was cut")
		}
		if n := count(t, db); n != i+1 {
			t.Errorf("delivered %v: %d payments", delivered, n)
		}
		if again, repeated, err := db.Pay(t.Context(), o); err != nil || !repeated || again.ID != p.ID {
			t.Errorf("delivered %v, asked again: %v, repeated %v, %v", delivered, again, repeated, err)
		}
	}
	// The server does not come back.
	bobs := order("r", "h")
	bobs.Payer, bobs.InvoiceID = bob, "INV-3"
	r.deliver.Store(true)
	r.cuts.Store(1)
	go func() {
		for r.cuts.Load() > 0 {
			time.Sleep(time.Millisecond)
		}
		r.down.Store(true)
	}()
	start := time.Now()
	_, _, err := db.Pay(t.Context(), bobs)
	if took := time.Since(start); err != nil && (!errors.Is(err, ErrUncertain) || took > patience+late) {
		t.Errorf("after %s: %v", took, err)
	} else if err == nil {
		t.Log("it was asked before it went down")
	}
	r.down.Store(false)
	if _, repeated, err := db.Pay(t.Context(), bobs); err != nil || !repeated {
		t.Error("back again:", repeated, err)
	}
}

// A server that is silent is unavailable in good time, and nothing is kept of
// what had not been committed.
func testHangs(t *testing.T, database string) {
	r, through := newRelay(t, database)
	db := open(t, through)
	r.silent.Store(true)
	start := time.Now()
	_, _, err := db.Pay(t.Context(), order("r1", "h1"))
	unavailable(t, err)
	_, err = db.Payments(t.Context(), alice, "", Payment{}, 10)
	unavailable(t, err)
	if took := time.Since(start); took > 2*patience+late {
		t.Errorf("it took %s", took)
	}
	r.silent.Store(false)
	_, repeated, err := db.Pay(t.Context(), order("r1", "h1"))
	for errors.Is(err, ErrUncertain) && time.Since(start) < late { // this machine is late, and then it may have been paid
		if _, _, err = db.Pay(t.Context(), order("r1", "h1")); err == nil {
			repeated = false
		}
	}
	if repeated || err != nil {
		t.Error("once it answers:", repeated, err)
	}
}

// Two who add the same invoices in different orders wait for each other: one of
// them tries again.
func testDeadlock(t *testing.T, database string) {
	db := open(t, database)
	all := make([]Invoice, 80)
	for i := range all {
		all[i] = Invoice{ID: fmt.Sprint("D-", i), Owner: alice, Amount: eur12}
	}
	var wg sync.WaitGroup
	var added atomic.Int64
	for round := range 4 {
		mine := append(append([]Invoice(nil), all[20*round:]...), all[:20*round]...)
		wg.Go(func() {
			n, err := db.Add(context.Background(), mine)
			for began := time.Now(); errors.Is(err, context.DeadlineExceeded) && time.Since(began) < late; { // of a busy machine
				n, err = db.Add(context.Background(), mine)
			}
			if err != nil {
				t.Error(err)
			}
			added.Add(int64(n))
		})
	}
	wg.Wait()
	if added.Load() != int64(len(all)) {
		t.Errorf("%d were added, of %d", added.Load(), len(all))
	}
}

func testPostgresReopen(t *testing.T, database string) {
	reopen(t, strings.Replace(database, "postgres://", "postgresql://", 1))
}

func testPostgresNewer(t *testing.T, database string) {
	db := open(t, database)
	if _, err := db.engine.(postgreSQL).Write.Exec(`INSERT INTO migrations VALUES (99, 0)`); err != nil {
		t.Fatal(err)
	}
	if db, err := Open(t.Context(), database); err == nil {
		t.Error("opened")
		_ = db.Close()
	}
}

// What would lose payments or show them on the network is refused, without the
// password in the error.
func testPostgresRefused(t *testing.T, database string) {
	const secret = "s3cr3t"
	options := func(text string) string {
		return database + "&options=" + strings.ReplaceAll(url.QueryEscape(text), "+", "%20")
	}
	for name, refused := range map[string]string{
		"no such scheme":         "mysql://127.0.0.1/server2",
		"not a URL":              "postgres://user:" + secret + "@[::1/db",
		"a bad port":             "postgres://user:" + secret + "@127.0.0.1:port/db",
		"a bad setting":          "postgres://user:" + secret + "@127.0.0.1/db?sslmode=perhaps",
		"no server":              "postgres://user:" + secret + "@127.0.0.1:1/db",
		"no such database":       strings.Replace(database, "/test", "/none", 1),
		"plain, off loopback":    "postgres://user:" + secret + "@192.0.2.1/db",
		"TLS of anybody's":       "postgres://user:" + secret + "@192.0.2.1/db?sslmode=require",
		"one host off loopback":  "postgres://user:" + secret + "@127.0.0.1,db.example/db?sslmode=prefer",
		"no such CA":             "postgres://user:" + secret + "@192.0.2.1/db?sslmode=verify-full&sslrootcert=/nowhere/ca.pem",
		"it loses what it acked": options("-c synchronous_commit=off"),
		"it cannot be written":   options("-c default_transaction_read_only=on"),
	} {
		db, err := Open(t.Context(), refused)
		if err == nil {
			t.Errorf("%s: opened", name)
			_ = db.Close()
			continue
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: it tells the password: %v", name, err)
		}
	}
}

// What was acknowledged before the server is killed with kill -9 under load is
// there afterwards. A caller who gets no answer asks again until there is one.
func testPostgresKilled(t *testing.T, server *servingtest.PostgresServer) {
	db := open(t, server.Database(t))
	all := make([]Invoice, 2000)
	for i := range all {
		all[i] = Invoice{ID: fmt.Sprint("K-", i), Owner: alice, Amount: eur12}
	}
	for some := range slices.Chunk(all, 200) { // each in the time that a change has, on a busy machine too
		if _, err := db.Add(t.Context(), some); err != nil {
			t.Fatal(err)
		}
	}
	acknowledged := make([]string, len(all))
	var next, paid, failed atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; ctx.Err() == nil && i < len(all); {
				o := order(fmt.Sprint("r", i), fmt.Sprint("h", i))
				o.InvoiceID = all[i].ID
				p, _, err := db.Pay(ctx, o)
				if err != nil {
					unavailable(t, err)
					failed.Add(1)
					time.Sleep(50 * time.Millisecond)
					continue
				}
				acknowledged[i] = p.ID
				paid.Add(1)
				i = int(next.Add(1)) - 1
			}
		})
	}
	underLoad := func() {
		since := paid.Load()
		for began := time.Now(); paid.Load() < since+50; time.Sleep(time.Millisecond) {
			if time.Since(began) > 30*time.Second {
				t.Fatalf("%d payments are acknowledged", paid.Load()-since)
			}
		}
	}
	for range 2 {
		underLoad()
		server.Kill(t)
		server.Start(t)
	}
	underLoad()
	stop()
	wg.Wait()
	kept := map[string]bool{}
	for page, last := []Payment(nil), (Payment{}); ; last = page[len(page)-1] {
		var err error
		if page, err = db.Payments(t.Context(), alice, "", last, 1000); err != nil {
			t.Fatal(err)
		}
		for _, p := range page {
			kept[p.ID] = true
		}
		if len(page) < 1000 {
			break
		}
	}
	for i, id := range acknowledged {
		if id != "" && !kept[id] {
			t.Errorf("payment %d was acknowledged and lost", i)
		}
	}
	if failed.Load() == 0 {
		t.Errorf("%d payments were acknowledged, and no call failed: there was no load", paid.Load())
	}
}
