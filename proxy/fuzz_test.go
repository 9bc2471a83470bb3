package proxy

import (
	"bytes"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
)

// fuzzServer is enough of a server to rewrite commands with.
func fuzzServer(tb testing.TB) *Server {
	tb.Helper()
	dial := Upstream{Dial: newDialer("127.0.0.1:1")}
	source, target := dial, dial
	source.Username, source.Password = "app", "old"
	target.Username, target.Password = "tenant", "new"
	route := router.Route{Side: router.Target, Epoch: 1, Map: router.Identity(16)}
	s, err := New(Config{Listen: []Listen{{Network: "tcp", Address: "127.0.0.1:0"}}, Upstreams: [2]Upstream{source, target}}, router.NewGate(route), &heard{}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// oneCommand reads a rewritten command back: it must be one, and whole.
func oneCommand(t *testing.T, wire []byte) [][]byte {
	t.Helper()
	var p resp.Requests
	for b := wire; len(b) > 0; {
		n := copy(p.Space(), b)
		p.Advance(n)
		b = b[n:]
	}
	req, ok, err := p.Next()
	if err != nil || !ok || p.Buffered() != 0 {
		t.Fatalf("%q is not one command: %v %v", wire, ok, err)
	}
	return cloneArgs(req.Args)
}

var (
	number  = regexp.MustCompile(`^(0|[1-9][0-9]*)$`)
	channel = regexp.MustCompile(`^__key(space|event)@([0-9]+)__:`)
)

// databases says independently which arguments name a database.
func databases(args [][]byte) (at []int) {
	switch name := strings.ToLower(string(args[0])); {
	case name == "select" && len(args) == 2:
		at = []int{1}
	case name == "move" && len(args) == 3:
		at = []int{2}
	case name == "swapdb" && len(args) == 3:
		at = []int{1, 2}
	case name == "copy":
		for i := 3; i < len(args)-1; i++ {
			if strings.EqualFold(string(args[i]), "db") {
				at = append(at, i+1)
				i++
			}
		}
	}
	return at
}

func isSubscribing(word []byte) bool {
	name := strings.ToLower(string(word))
	return strings.TrimLeft(name, "psun") == "bscribe" && lookup(word) != plainSpec
}

// FuzzRewrite rewrites commands for a target with other database numbers, for one
// with the same, and for the source. What comes out is the same command, and only
// database numbers in it differ.
func FuzzRewrite(f *testing.F) {
	for _, s := range []string{
		"SELECT 3", "select 0", "SELECT 7", "SELECT -1", "SELECT x", "SELECT +3", "SELECT  3", "SELECT 03", "SELECT 10000000000000000000", "SELECT 3 4", "SELECT",
		"MOVE k 3", "MOVE k", "SWAPDB 0 3", "SWAPDB 3 9", "COPY a b", "COPY a b DB 3 REPLACE", "COPY a b db DB", "COPY a b DB", "COPY DB 3 DB 3", "COPY a b DB 3 DB 99999999999",
		"SUBSCRIBE __keyspace@3__:k a", "PSUBSCRIBE __key*@0__:* __keyevent@3__:*", "UNSUBSCRIBE __keyspace@7__:k", "SUNSUBSCRIBE", "FLUSHALL", "FLUSHALL ASYNC",
		"EVAL redis.call('select',3) 0", "EVAL return 0", "EVALSHA abc 0", "SCRIPT LOAD redis.call(\"swapdb\",1,2)", "FUNCTION LOAD x", "GET k", "XREAD BLOCK 0 STREAMS s $",
		"XREADGROUP GROUP g c COUNT 1 BLOCK x STREAMS a b > >", "BLPOP k 0", "BLMPOP 1 2 k LEFT", "EVAL x 2 a b c", "AUTH app old", "AUTH old", "HELLO 3 AUTH app old SETNAME auth", "HELLO 3 SETNAME auth AUTH app x",
		"SCAN 0", "SCAN 1099511627777 MATCH x", "HSCAN k 5", "XCLAIM k", "CLIENT REPLY OFF", "CLIENT TRACKING ON REDIRECT 5", "PFCOUNT",
	} {
		f.Add([]byte(strings.ReplaceAll(s, " ", "\x00")), uint64(1))
	}
	s := fuzzServer(f)
	pairs := map[int]int{0: 0, 3: 5, 5: 3, 12: 1}
	other, err := router.NewDBMap(pairs)
	if err != nil {
		f.Fatal(err)
	}
	equals := router.Identity(1 << 10).Within(1 << 10)
	f.Fuzz(func(t *testing.T, text []byte, epoch uint64) {
		args := bytes.Split(text, []byte{0})
		sp := lookup(args[0])
		before := wireOf(args...)
		if sp.verb == vScan { // FuzzCursor is about what becomes of cursors
			for _, route := range []router.Route{{Epoch: epoch, Map: other}, {Side: router.Target, Epoch: epoch, Map: equals}, {Side: router.Target, Epoch: epoch, Map: other}} {
				wire, refusal := s.translate(route, sp, args)
				var want []byte
				if own := ownScan(epoch, sp.cursor, args); own != nil {
					want = wireOf(own...)
				}
				if refusal != "" || !bytes.Equal(wire, want) {
					t.Fatalf("%q on %+v: %q, %q", args, route, wire, refusal)
				}
			}
			return
		}

		// The source gets what the client wrote.
		wire, refusal := s.translate(router.Route{Epoch: epoch, Map: other}, sp, args)
		if wire != nil || refusal != "" {
			t.Fatalf("%q for the source: %q, %q", args, wire, refusal)
		}

		// So does a target with the same numbers, as far as the map goes.
		wire, refusal = s.translate(router.Route{Side: router.Target, Epoch: epoch, Map: equals}, sp, args)
		if wire != nil && !bytes.Equal(wire, before) {
			t.Fatalf("%q under the map of equals: %q", args, wire)
		}
		if refusal != "" && sp.verb != vFlushAll && !refusesNumber(args, func(n int) bool { return n < 1<<10 }) {
			t.Fatalf("%q under the map of equals: %q", args, refusal)
		}

		route := router.Route{Side: router.Target, Epoch: epoch, Map: other}
		wire, refusal = s.translate(route, sp, args)
		at := databases(args)
		switch {
		case refusal != "":
			if strings.ContainsAny(refusal, "\r\n") || !strings.HasPrefix(refusal, "ERR ") {
				t.Fatalf("%q: refused by %q", args, refusal)
			}
			mapped := func(n int) bool { _, ok := pairs[n]; return ok }
			if len(at) > 0 && !refusesNumber(args, mapped) {
				t.Fatalf("%q: refused by %q", args, refusal)
			}
		case wire == nil && len(at) > 0:
			t.Fatalf("%q goes to other databases as it is", args)
		case wire != nil:
			got := oneCommand(t, wire)
			if len(got) != len(args) {
				t.Fatalf("%q became %q", args, got)
			}
			for i := range args {
				want := args[i]
				switch {
				case slices.Contains(at, i) && number.Match(want):
					n, err := strconv.Atoi(string(want))
					if err != nil {
						t.Fatalf("%q became %q", args, got)
					}
					want = strconv.AppendInt(nil, int64(pairs[n]), 10)
				case i > 0 && isSubscribing(args[0]) && channel.Match(want):
					m := channel.FindSubmatchIndex(want)
					to := nowhere + string(want[m[4]:m[5]])
					if n, err := strconv.Atoi(string(want[m[4]:m[5]])); err == nil && number.Match(want[m[4]:m[5]]) {
						if db, ok := pairs[n]; ok {
							to = strconv.Itoa(db)
						}
					}
					want = splice(want, m[4], m[5], to)
				}
				if !bytes.Equal(got[i], want) {
					t.Fatalf("%q became %q", args, got)
				}
			}
		}
		if !bytes.Equal(wireOf(args...), before) {
			t.Fatalf("%q was changed in place", before)
		}
		lookInto(t, s, sp, route, args)
	})
}

// refusesNumber reports whether an argument that names a database is no number of
// one that has a place.
func refusesNumber(args [][]byte, has func(int) bool) bool {
	for _, i := range databases(args) {
		trimmed := strings.TrimLeft(strings.Trim(string(args[i]), " \t"), "+-")
		n, err := strconv.Atoi(trimmed)
		digits := strings.Trim(trimmed, "0123456789") == ""
		if digits && (err != nil || !number.Match(args[i])) || err == nil && !has(n) {
			return true
		}
	}
	return false
}

// lookInto runs what else reads a client's arguments.
func lookInto(t *testing.T, s *Server, sp *spec, route router.Route, args [][]byte) {
	for _, k := range sp.keys(nil, args) {
		if k.At < 1 || k.At >= len(args) {
			t.Fatalf("%q has a key at %d", args, k.At)
		}
	}
	if i := sp.block.index(args); i >= len(args) {
		t.Fatalf("%q has its timeout at %d", args, i)
	} else if i > 0 {
		if d, forever, ok := sp.block.timeout(args[i]); ok && !forever && d < 0 {
			t.Fatalf("%q waits for %v", args, d)
		}
	}
	if sp.verb == vAuth || sp.verb == vHello {
		it := &item{spec: sp, args: args}
		sess := &session{srv: s, route: route}
		got := oneCommand(t, sess.translateAuth(it))
		want := cloneArgs(args)
		exchange := func(i int) {
			if string(args[i+1]) == "app" && string(args[i+2]) == "old" && !equalArgs(got, args) {
				want[i+1], want[i+2] = []byte("tenant"), []byte("new")
			}
		}
		switch {
		case sp.verb == vAuth && len(args) == 3:
			exchange(0)
			if len(got) > 0 && is(got[0], "auth") {
				want[0] = got[0] // in whatever letters it is said
			}
		case sp.verb == vHello:
			for i := 2; i < len(args); i++ { // each of them, since some servers obey the last one
				if is(args[i], "auth") && i+2 < len(args) {
					exchange(i)
					i += 2
				} else if is(args[i], "setname") && i+1 < len(args) {
					i++
				} else {
					break
				}
			}
		}
		if !equalArgs(got, want) {
			t.Fatalf("%q became %q", args, got)
		}
		if is(args[0], "auth") && len(args) == 3 && equalArgs(args[1:], [][]byte{[]byte("app"), []byte("old")}) && equalArgs(got, args) {
			t.Fatalf("%q keeps the source's credentials", args)
		}
	}
	if sp.verb == vClient {
		it := &item{spec: sp, args: args, sub: clientSub(args)}
		if it.sub == clientReply {
			oneCommand(t, (&session{}).replyMode(it, wireOf(args...)))
		}
	}
}

func equalArgs(a, b [][]byte) bool {
	return slices.EqualFunc(a, b, bytes.Equal)
}

// FuzzChannel maps the names of channels there and back.
func FuzzChannel(f *testing.F) {
	for _, s := range []string{"__keyspace@3__:k", "__keyevent@0__:set", "__keyspace@7__:k", "__keyspace@03__:k", "__keyevent@99999999999999999999__:x", "news", "__keyspace@crossfade-unmapped-7__:k"} {
		f.Add([]byte(s))
	}
	m, err := router.NewDBMap(map[int]int{0: 0, 3: 5, 5: 3, 12: 1})
	if err != nil {
		f.Fatal(err)
	}
	route := router.Route{Side: router.Target, Epoch: 1, Map: m}
	f.Fuzz(func(t *testing.T, name []byte) {
		if keyspaceNowhere.Match(name) {
			return // a name of ours
		}
		there := mapChannel(route, name)
		back, ok := unmapChannel(route, there)
		if !ok || !bytes.Equal(back, name) {
			t.Fatalf("%q became %q and came back as %q, %v", name, there, back, ok)
		}
		if plain := mapChannel(router.Route{Map: m}, name); !bytes.Equal(plain, name) {
			t.Fatalf("%q became %q on the source", name, plain)
		}
	})
}

// FuzzCursor tags cursors in replies and takes the tags off again.
func FuzzCursor(f *testing.F) {
	f.Add([]byte("*2\r\n$1\r\n0\r\n*0\r\n"), uint64(0), uint64(1))
	f.Add([]byte("*2\r\n$2\r\n17\r\n*1\r\n$1\r\na\r\n"), uint64(17), uint64(2))
	f.Add([]byte("-ERR invalid cursor\r\n"), uint64(1<<40-1), uint64(4096))
	f.Add([]byte("*2\r\n$3\r\n"), uint64(1<<40), uint64(1))
	f.Fuzz(func(t *testing.T, reply []byte, cursor, epoch uint64) {
		if head, used, need := tagCursor(epoch, reply); used > len(reply) || used < 0 || need && head != nil {
			t.Fatalf("%q: %q, %d, %v", reply, head, used, need)
		}
		_ = ownCursor(epoch, reply)
		digits := strconv.FormatUint(cursor, 10)
		whole := wireOf([]byte(digits), []byte("rest"))
		head, used, need := tagCursor(epoch, whole)
		if need {
			t.Fatalf("%q is whole", whole)
		}
		for cut := range whole[:min(len(whole), 3+len(digits))] {
			if early, _, _ := tagCursor(epoch, whole[:cut]); early != nil {
				t.Fatalf("%q was enough", whole[:cut])
			}
		}
		if head == nil {
			if cursor != 0 && cursor < 1<<cursorBits {
				t.Fatalf("the cursor %d was not tagged", cursor)
			}
			return
		}
		args := oneCommand(t, append(head, whole[used:]...))
		if n, err := strconv.ParseUint(string(args[0]), 10, 64); err != nil || n >= 1<<53 {
			t.Fatalf("the client's cursor is %q", args[0])
		}
		if epoch > 0 && string(ownCursor(epoch, args[0])) != digits {
			t.Fatalf("%d became %q and came back as %q", cursor, args[0], ownCursor(epoch, args[0]))
		}
		if later := ownCursor(epoch+1, args[0]); epoch > 0 && epoch+1 != 0 && string(later) != "0" {
			t.Fatalf("a cursor of before the switch is %q after it", later)
		}
	})
}
