package fleet

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/keyspec"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/slot"
)

// scraps are words behind a command's name that make no whole command of most: too few, and
// numbers that count nothing. None of them is a timeout.
var scraps = [][]string{
	{}, {""}, {"a"}, {"-1"}, {"99999999999999999999"}, {"a", "a"}, {"a", "-1"}, {"a", "9223372036854775807"}, {"2147483647", "a"},
	{"streams"}, {"streams", "a"}, {"block"}, {"group", "streams"}, {"a", "store"}, {"\r\n", "\r\n"},
}

// commandLines are all commands that are known, and all subcommands, with scraps.
func commandLines() (lines [][][]string) {
	for command := range keyspec.All() {
		heads := [][]string{{command.Name}}
		for _, sub := range command.Subs {
			heads = append(heads, strings.Split(sub.Name, "|"))
		}
		var of [][]string
		for _, head := range heads {
			for _, words := range scraps {
				of = append(of, slices.Concat(head, words))
			}
		}
		lines = append(lines, of)
	}
	return append(lines, [][]string{{""}, {"nonesuch"}, {"nonesuch", "a"}, {"a\r\nb", "a"}, {strings.Repeat("x", 100)}})
}

// TestFewWords sends every command with hardly a word behind it, in a transaction and without
// one: each is answered, and nothing ends but what is to end.
func TestFewWords(t *testing.T) {
	c := redistest.StartCluster(t, 2, 0)
	f := over(t, c)
	for _, lines := range commandLines() {
		for _, within := range []bool{false, true} {
			e := dial(t, f)
			for _, words := range lines {
				switch {
				case !within:
					e.send(words)
				case len(words) < 3:
					e.send([]string{"MULTI"}, words, []string{"EXEC"}, []string{"DISCARD"})
				default:
					e.send([]string{"MULTI"}, words, []string{"DISCARD"})
				}
				if is([]byte(lines[0][0]), "quit") {
					break // which ends it
				}
			}
			if !is([]byte(lines[0][0]), "quit") {
				e.send([]string{"QUIT"})
			}
			_ = e.conn.SetReadDeadline(time.Now().Add(patience))
			got, err := io.ReadAll(e.conn)
			if err != nil || !strings.HasSuffix(string(got), "+OK\r\n") {
				t.Errorf("%q, in a transaction %v: %v, and at the end %q", lines[0][0], within, err, got[max(0, len(got)-60):])
			}
			_ = e.conn.Close()
		}
	}
	// Servers do not look at what ends a word.
	e := dial(t, f)
	if _, err := e.conn.Write([]byte("*1\r\n$5\r\nMULTIxx*2\r\n$7\r\nEVALSHAxx$1\r\naxx*1\r\n$4\r\nPINGxx*1\r\n$7\r\nDISCARDxx")); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"+OK", "-ERR", "+QUEUED", "+OK"} {
		if got := e.read(); !strings.HasPrefix(got, want) {
			t.Errorf("%d: %q, want %s", i, got, want)
		}
	}
	e.want("ECHO a", "$1\r\na\r\n")
}

// TestScriptSaysMoved has a script answer in the words of a node: that is its reply.
func TestScriptSaysMoved(t *testing.T) {
	c := redistest.StartCluster(t, 2, 0)
	f := over(t, c)
	e := dial(t, f)
	before := f.topo.Map()
	k := "{" + slot.Tag(7) + "}"
	for _, word := range []string{"MOVED", "ASK"} {
		text := word + " 5 127.0.0.1:1"
		script := "redis.call('incr', KEYS[1] .. 'n') return redis.error_reply('" + text + "')"
		if got := e.do("EVAL", script, "1", k); got != "-"+text+"\r\n" {
			t.Errorf("%q", got)
		}
		if got := e.do("EVAL", "return redis.error_reply('"+text+"')", "0"); got != "-"+text+"\r\n" {
			t.Errorf("without keys: %q", got)
		}
	}
	e.want("GET "+k+"n", "$1\r\n2\r\n")
	if f.topo.Map().Owner(5) != before.Owner(5) {
		t.Error("a script has changed the map")
	}
}

// TestOvertaken has something be sent again that has been overtaken meanwhile: it is not done.
func TestOvertaken(t *testing.T) {
	c := redistest.StartCluster(t, 2, 0)
	f := over(t, c)
	e := dial(t, f)
	e.want("SET n 1", "+OK\r\n")
	conn := f.all()[0]
	cl := &call{raw: words("INCR", "n"), slot: int(slotOfKey("n")), overtaken: true}
	reply, err := conn.perform(conn.ctx, cl, time.Now().Add(patience))
	if err != nil || string(reply) != "-"+overtakenText+"\r\n" {
		t.Errorf("%q, %v", reply, err)
	}
	e.want("GET n", "$1\r\n1\r\n")
}

// TestExecLosesItsNode has connections be cut while EXEC is on its way: it was done once, or
// not, and who is told so is told the truth.
func TestExecLosesItsNode(t *testing.T) {
	c := redistest.StartCluster(t, 2, 0)
	f := over(t, c)
	m := c.Masters()[0]
	key := at(c, m, "n")
	told, lost := 0, 0
	for range 150 {
		e := dial(t, f)
		e.want("MULTI", "+OK\r\n")
		e.want("INCR "+key, "+QUEUED\r\n")
		cut := make(chan struct{})
		go func() {
			defer close(cut)
			_ = c.On(m).Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Err()
		}()
		e.send([]string{"EXEC"})
		got, err := e.next()
		switch {
		case err != nil:
			lost++
		case strings.HasPrefix(got, "*1\r\n:"):
			told++
		default:
			t.Errorf("EXEC: %q", got)
		}
		<-cut
		_ = e.conn.Close()
	}
	n, err := c.On(m).Get(t.Context(), key).Int()
	if err != nil || n < told || n > told+lost {
		t.Errorf("%d done, %v; %d were told so, and %d nothing", n, err, told, lost)
	}
	t.Logf("%d were told, %d nothing", told, lost)
}

// TestReadBeforeALostWrite: a node is lost that has had a read and a write behind it. Asked once
// more, it would answer the read with what the write has written.
func TestReadBeforeALostWrite(t *testing.T) {
	c := redistest.StartCluster(t, 2, 0)
	f := over(t, c)
	m := c.Masters()[0]
	key := at(c, m, "k")
	e := dial(t, f)
	e.want("SET "+key+" old", "+OK\r\n")
	n := f.all()[0].nodes[m.Addr()]
	written := func() uint64 {
		n.c.mu.Lock()
		defer n.c.mu.Unlock()
		return n.written
	}
	before := written()
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
	e.send([]string{"GET", key}, []string{"SET", key, "new"})
	redistest.Eventually(t, patience, func() bool { return written() == before+2 }, "both are at the node")
	n.close()
	if err := m.Cont(); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, patience, func() bool { return c.On(m).Get(t.Context(), key).Val() == "new" }, "both are done")
	if got, err := e.next(); err == nil {
		t.Errorf("GET: %q", got)
	}
}

// TestMasterHangs has a master without a replica say nothing any more: who asks it is told
// so, and who waits behind that goes on.
func TestMasterHangs(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as it takes the cluster to notice")
	}
	c := redistest.StartCluster(t, 3, 0)
	f := over(t, c, func(o *Options) { o.Patience = time.Second })
	m := c.Masters()[1]
	key := at(c, m, "k")
	reads, writes, gone := dial(t, f), dial(t, f), dial(t, f)
	for _, e := range []*end{reads, writes, gone} {
		e.want("SET "+key+" 1", "+OK\r\n")
	}
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Cont() }()
	gone.send([]string{"SET", key, "2"}, []string{"MULTI"})
	reads.send([]string{"GET", key}, []string{"ECHO", "a"}, []string{"GET", key})
	writes.send([]string{"SET", key, "3"}, []string{"ECHO", "a"})
	_ = gone.conn.Close()
	redistest.Eventually(t, patience, func() bool { return len(f.all()) < 3 }, "nobody waits for who has hung up")
	if got := reads.read(); got != "-"+downText+"\r\n" {
		t.Errorf("GET: %q", got)
	}
	if got := reads.read(); got != "$1\r\na\r\n" && got != "-"+downText+"\r\n" {
		t.Errorf("ECHO: %q", got)
	}
	if got := reads.read(); got != "-"+downText+"\r\n" { // the map does not change any more
		t.Errorf("GET again: %q", got)
	}
	if got, err := writes.next(); err == nil {
		t.Errorf("a SET of which nobody knows: %q", got)
	}
	again := dial(t, f)
	if got := again.line("GET " + key); got != "-"+downText+"\r\n" {
		t.Errorf("GET of another client: %q", got)
	}
	// Nobody waits for it any more, though each connection to it would have to be greeted: else
	// each of these took as long as one may take to be made.
	if got := again.line("HELLO 3"); !strings.HasPrefix(got, "%") {
		t.Fatalf("HELLO: %q", got)
	}
	began := time.Now()
	for range 20 {
		if got := again.line("GET " + key); got != "-"+downText+"\r\n" {
			t.Errorf("GET once more: %q", got)
		}
		again.want("ECHO a", "$1\r\na\r\n")
	}
	if took := time.Since(began); took > f.opts.DialTimeout {
		t.Errorf("40 commands took %v", took)
	}
	if err := m.Cont(); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, patience, func() error {
		if got := again.line("GET " + key); strings.HasPrefix(got, "-") {
			return errors.New(got)
		}
		return nil
	}, "it answers again")
}
