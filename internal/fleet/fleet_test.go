package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/internal/slot"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	redistest.SilenceClients()
	// go-redis tries a node that is gone once a second, up to a second longer than its client lives.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).reaper"),
		goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// patience bounds every wait of the tests.
const patience = 20 * time.Second

// over makes a fleet of a cluster, which ends with the test.
func over(t testing.TB, c *redistest.Cluster, opts ...func(*Options)) *Fleet {
	t.Helper()
	e := config.Endpoint{Network: "cluster", Address: c.Addrs()[0], Password: c.Servers[0].Password(), Cluster: &config.Cluster{Seeds: c.Addrs()}}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	_, topo := cluster.Follow(e, 5*time.Second, log)
	var o Options
	for _, opt := range opts {
		opt(&o)
	}
	f, err := New(topo, o, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() { defer close(ran); topo.Run(ctx) }()
	t.Cleanup(func() {
		f.Close()
		cancel()
		<-ran
		topo.Close()
	})
	return f
}

// end is a client's end of a connection.
type end struct {
	t    testing.TB
	conn net.Conn
	rest []byte
}

func dial(t testing.TB, f *Fleet) *end {
	t.Helper()
	conn, err := f.Dial(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &end{t: t, conn: conn}
}

func dialServer(t testing.TB, s *redistest.Server) *end {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &end{t: t, conn: conn}
}

// send writes commands at once.
func (e *end) send(lines ...[]string) {
	e.t.Helper()
	var b []byte
	for _, args := range lines {
		b = append(b, words(args...)...)
	}
	_ = e.conn.SetWriteDeadline(time.Now().Add(patience))
	if _, err := e.conn.Write(b); err != nil {
		e.t.Fatalf("%.100q: %v", lines, err)
	}
}

func (e *end) next() (string, error) {
	var fr resp.Framer
	at := 0
	buf := make([]byte, 64<<10)
	for {
		n, done, err := fr.Feed(e.rest[at:])
		if err != nil {
			return "", err
		}
		if at += n; done {
			el := string(e.rest[:at])
			e.rest = e.rest[at:]
			return el, nil
		}
		_ = e.conn.SetReadDeadline(time.Now().Add(patience))
		k, err := e.conn.Read(buf)
		if e.rest = append(e.rest, buf[:k]...); err != nil && k == 0 {
			return "", err
		}
	}
}

func (e *end) read() string {
	e.t.Helper()
	el, err := e.next()
	if err != nil {
		e.t.Fatal(err)
	}
	return el
}

// do says one command and returns the reply as it came.
func (e *end) do(args ...string) string {
	e.t.Helper()
	e.send(args)
	return e.read()
}

// line is do of words in one text.
func (e *end) line(text string) string {
	e.t.Helper()
	return e.do(fields(text)...)
}

// want checks the reply to a line.
func (e *end) want(text, reply string) {
	e.t.Helper()
	if got := e.line(text); got != reply {
		e.t.Errorf("%s: %q, want %q", text, got, reply)
	}
}

// silent checks that nothing more comes for a moment.
func (e *end) silent() {
	e.t.Helper()
	if len(e.rest) > 0 {
		e.t.Errorf("more came: %q", e.rest)
		return
	}
	_ = e.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	var b [100]byte
	if n, err := e.conn.Read(b[:]); err == nil {
		e.t.Errorf("more came: %q", b[:n])
	}
}

// fields splits a line at spaces; a word may stand in double quotes, as Go writes it.
func fields(line string) (args []string) {
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		if line[0] != '"' {
			word, rest, _ := strings.Cut(line, " ")
			args, line = append(args, word), rest
			continue
		}
		word, err := strconv.QuotedPrefix(line)
		if err != nil {
			panic(err)
		}
		line = line[len(word):]
		word, _ = strconv.Unquote(word)
		args = append(args, word)
	}
	return args
}

// at is a key in a slot of the server.
func at(c *redistest.Cluster, s *redistest.Server, name string) string {
	for n := uint16(0); n < slot.Count; n += 500 {
		if c.Owner(n) == s {
			return "{" + slot.Tag(n) + "}" + name
		}
	}
	panic("it has no slots")
}

func TestKeepsTheOrder(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	e := dial(t, over(t, c))
	const n = 5000
	var lines [][]string
	for i := range n {
		lines = append(lines, []string{"SET", fmt.Sprint("key:", i), fmt.Sprint(i)}, []string{"GET", fmt.Sprint("key:", i)})
	}
	go e.send(lines...)
	for i := range n {
		if got := e.read(); got != "+OK\r\n" {
			t.Fatalf("SET %d: %q", i, got)
		}
		if got, want := e.read(), string(bulk(nil, fmt.Sprint(i))); got != want {
			t.Fatalf("GET %d: %q, want %q", i, got, want)
		}
	}
	e.want("DBSIZE", fmt.Sprintf(":%d\r\n", n))
	if got := len(resp.Elements([]byte(e.line("KEYS *")))); got != n {
		t.Errorf("KEYS lists %d of %d keys", got, n)
	}
	for i, s := range c.Masters() {
		if size := c.On(s).DBSize(t.Context()).Val(); size < n/4 {
			t.Errorf("master %d has %d keys", i, size)
		}
	}
}

func TestLargeValues(t *testing.T) {
	c := redistest.StartCluster(t, 2, 0)
	e := dial(t, over(t, c))
	size := 64 << 20
	if testing.Short() {
		size = 12 << 20 // which is still more than is held of replies
	}
	value := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	for i := range 4 {
		if got := e.do("SET", fmt.Sprint("big", i), string(value)); got != "+OK\r\n" {
			t.Fatal(got)
		}
	}
	// Small replies of the other node stand between them.
	var lines [][]string
	for i := range 4 {
		lines = append(lines, []string{"GET", fmt.Sprint("big", i)}, []string{"STRLEN", fmt.Sprint("big", 3-i)})
	}
	e.send(lines...)
	for range 4 {
		if got := e.read(); len(got) != len(fmt.Sprintf("$%d\r\n\r\n", size))+size {
			t.Fatalf("%d bytes: %.50q", len(got), got)
		}
		if got := e.read(); got != fmt.Sprintf(":%d\r\n", size) {
			t.Fatal(got)
		}
	}
	e.send([]string{"MGET", "big0", "big1", "none"})
	if got := resp.Elements([]byte(e.read())); len(got) != 3 || len(got[1]) < len(value) || string(got[2]) != "$-1\r\n" {
		t.Errorf("MGET returns %d elements", len(got))
	}
}

// TestHoldsLittle reads a large reply slowly: what is read of the node is not kept.
func TestHoldsLittle(t *testing.T) {
	c := redistest.StartCluster(t, 1, 0)
	f := over(t, c)
	e := dial(t, f)
	const size = 512<<20 - 1
	e.want("SETRANGE big 536870910 x", fmt.Sprintf(":%d\r\n", size))
	e.send([]string{"GET", "big"}, []string{"ECHO", "end"})
	buf := make([]byte, 1<<20)
	total, most := 0, 0
	want := len(bulk(nil, "")) - 1 + 9 + size + len("$3\r\nend\r\n")
	for total < want-1 {
		_ = e.conn.SetReadDeadline(time.Now().Add(patience))
		n, err := e.conn.Read(buf)
		if err != nil {
			t.Fatalf("after %d of %d bytes: %v", total, want, err)
		}
		if total += n; total%(16<<20) < n {
			for _, cn := range f.all() {
				cn.mu.Lock()
				most = max(most, len(cn.out)+cn.held)
				cn.mu.Unlock()
			}
		}
		if bytes.HasSuffix(buf[:n], []byte("end\r\n")) {
			break
		}
	}
	if total < size || most > 2*outAtOnce {
		t.Errorf("%d of %d bytes came, and %d were held", total, size, most)
	}
}

func TestProtocolErrors(t *testing.T) {
	c := redistest.StartCluster(t, 1, 0)
	f := over(t, c)
	s := redistest.Start(t)
	for _, text := range []string{"*1\r\nx\r\n", "*1\r\n$-5\r\n", "*3000000000\r\n", "PING\r\nSET \"a\r\n", "\r\n\r\n*0\r\nPING\r\nQUIT\r\nPING\r\n"} {
		var got [2][]byte
		for i, e := range []*end{dial(t, f), dialServer(t, s)} {
			if _, err := e.conn.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			_ = e.conn.SetReadDeadline(time.Now().Add(patience))
			var err error
			if got[i], err = io.ReadAll(e.conn); err != nil {
				t.Error(err)
			}
		}
		if !bytes.Equal(got[0], got[1]) {
			t.Errorf("%q: %q, a server says %q", text, got[0], got[1])
		}
	}
}

func TestWantsAuth(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0, redistest.WithPassword("secret"))
	f := over(t, c)
	s := redistest.Start(t, redistest.WithPassword("secret"))
	fleet, server := dial(t, f), dialServer(t, s)
	for _, line := range []string{"PING", "GET a", "MULTI", "DBSIZE", "AUTH wrong", "HELLO 3", "NOSUCH", "AUTH secret", "SET a 1", "MGET a b c d",
		"AUTH default wrong", "GET a", "RESET", "GET a", "AUTH default secret", "GET a", "QUIT"} {
		if got, want := fleet.line(line), server.line(line); got != want {
			t.Errorf("%s: %q, a server says %q", line, got, want)
		}
	}
	three := dial(t, f)
	if got := three.line("HELLO 3 AUTH default secret SETNAME me"); !strings.HasPrefix(got, "%7\r\n") || !strings.Contains(got, "standalone") || !strings.Contains(got, "master") {
		t.Errorf("HELLO 3: %q", got)
	}
	for i := range 20 {
		three.want(fmt.Sprintf("HSET h%d f v", i), ":1\r\n")
		three.want(fmt.Sprintf("HGETALL h%d", i), "%1\r\n$1\r\nf\r\n$1\r\nv\r\n")
	}
	three.want("CLIENT GETNAME", "$2\r\nme\r\n")
	named := 0
	for _, m := range c.Masters() {
		named += strings.Count(c.On(m).Do(t.Context(), "CLIENT", "LIST").String(), " name=me ")
	}
	if named != 3 {
		t.Errorf("%d nodes know the client's name", named)
	}
}

func TestDialFails(t *testing.T) {
	c := redistest.StartCluster(t, 1, 0)
	f := over(t, c)
	e := dial(t, f)
	e.want("SET a 1", "+OK\r\n")
	c.Servers[0].Kill()
	if conn, err := f.Dial(t.Context()); err == nil {
		_ = conn.Close()
		t.Error("a cluster without a master was connected to")
	} else if !strings.Contains(err.Error(), c.Servers[0].Addr()) {
		t.Errorf("the error does not say where: %v", err)
	}
	began := time.Now()
	if got := e.line("GET a"); !strings.HasPrefix(got, "-CLUSTERDOWN ") {
		t.Errorf("GET: %q", got)
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("it has waited for %v", d)
	}
	began = time.Now()
	if got := e.line("GET a"); !strings.HasPrefix(got, "-CLUSTERDOWN ") || time.Since(began) > time.Second {
		t.Errorf("GET, late: %q after %v", got, time.Since(began))
	}
	if err := c.Servers[0].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, patience, func() bool { return strings.HasPrefix(e.line("SET a 2"), "+OK") }, "the cluster is back")
}

// TestDialOfASilentNode: a node that takes connections and says nothing is none to begin with.
func TestDialOfASilentNode(t *testing.T) {
	c := redistest.StartCluster(t, 2, 0)
	f := over(t, c, func(o *Options) { o.DialTimeout = 2 * time.Second })
	dial(t, f).want("PING", "+PONG\r\n")
	silent := c.Servers[0]
	if err := silent.Stop(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Cont() }()
	for range 6 { // by chance it is asked first
		conn, err := f.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
	}
	if err := c.Servers[1].Stop(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Servers[1].Cont() }()
	if _, err := f.Dial(t.Context()); err == nil || !strings.Contains(err.Error(), errSilent.Error()) || !strings.Contains(err.Error(), silent.Addr()) {
		t.Errorf("where nobody says anything: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := f.Dial(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("in less time: %v", err)
	}
}

func TestCloseEndsAll(t *testing.T) {
	c := redistest.StartCluster(t, 2, 0)
	f := over(t, c)
	var ends []*end
	for _, line := range []string{"GET a", "BLPOP a 0", "SUBSCRIBE a", "PING"} {
		e := dial(t, f)
		e.send(fields(line))
		ends = append(ends, e)
	}
	f.Close()
	for _, e := range ends {
		_ = e.conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadAll(e.conn); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Error(err)
		}
	}
	if conn, err := f.Dial(t.Context()); err == nil {
		_ = conn.Close()
		t.Error("a closed fleet was connected to")
	}
	if n := len(f.all()); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

// sorted puts the elements of an array in order.
func sorted(reply string) string {
	elements := resp.Elements([]byte(reply))
	if elements == nil {
		return reply
	}
	slices.SortFunc(elements, bytes.Compare)
	return reply[:strings.Index(reply, "\r\n")] + string(bytes.Join(elements, nil))
}
