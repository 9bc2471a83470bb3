package proxy

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
	"github.com/tidwall/redcon"
)

// TestHeads cuts replies at every byte.
func TestHeads(t *testing.T) {
	const said, gone = ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n", ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n"
	for in, want := range map[string]string{
		"*0\r\n":                          "*0\r\n",
		"*-1\r\n":                         "*-1\r\n",
		"*2\r\n$3\r\n-\r\n\r\n-ERR x\r\n": "*2\r\n+\r\n-\r\n",
		"*3\r\n*2\r\n-ERR\r\n:1\r\n_\r\n!3\r\nERR\r\n":                                   "*3\r\n+\r\n+\r\n-\r\n",
		"*1\r\n%1\r\n+a\r\n*1\r\n$-1\r\n":                                                "*1\r\n+\r\n",
		"*2\r\n" + said + gone + "-ERR\r\n" + gone + ":1\r\n":                            "*2\r\n-\r\n+\r\n",
		"*2\r\n" + said + ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n" + said + "-x\r\n": "*2\r\n+\r\n-\r\n",
		"*2\r\n*2\r\n" + gone + "$-1\r\n" + said + "$-1\r\n-ERR\r\n":                     "*2\r\n+\r\n-\r\n",
	} {
		for cut := range len(in) + 1 {
			var h heads
			short := h.add(h.add(nil, []byte(in[:cut])), []byte(in[cut:]))
			if string(short) != want {
				t.Errorf("%q cut at %d: got %q, want %q", in, cut, short, want)
			}
			if n := len(resp.Elements(short)); n != strings.Count(want, "+")+strings.Count(want, "-\r\n") {
				t.Errorf("%q has %d elements", short, n)
			}
		}
	}
}

// TestLargeTransactionIsNotKept has a client change its database in a transaction that
// reads much: its answer passes, as any other, and the change is followed all the same.
func TestLargeTransactionIsNotKept(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		const size, times = 4 << 20, 32
		w := newWorld(t, mode)
		for _, side := range []router.Side{router.Source, router.Target} {
			w.do(side, map[router.Side]int{router.Source: 3, router.Target: 5}[side], "SET", "where", side.String())
			w.do(side, 0, "SET", "large", strings.Repeat("v", size))
			w.do(side, 0, "SET", "where", "0")
		}
		c := w.client()
		length := int64(len("*34\r\n") + times*len(bulk(strings.Repeat("v", size))))
		for _, side := range []router.Side{router.Source, router.Target} {
			peak := heapPeak()
			c.want("SELECT 0", ok)
			c.want("MULTI", ok)
			for range times {
				c.want("GET large", "+QUEUED\r\n")
			}
			c.want("SELECT x", "+QUEUED\r\n")
			c.want("SELECT 3", "+QUEUED\r\n")
			c.send("EXEC")
			_ = c.conn.SetReadDeadline(time.Now().Add(longest))
			if n, err := io.CopyN(io.Discard, c.conn, length); err != nil {
				t.Fatalf("after %d bytes: %v", n, err)
			}
			if got := c.next(); !strings.HasPrefix(got, "-ERR") {
				t.Errorf("SELECT x answers %q", got)
			}
			c.expect(ok)
			if most := peak(); most > 48<<20 {
				t.Errorf("%d bytes were kept", most)
			}
			c.want("GET where", bulk(side.String()))
			if side == router.Source {
				w.switchTo(router.Target)
				c.want("GET where", bulk("target"))
			}
		}
	})
}

// TestManyPlacesInATransaction has as many replies looked at as a transaction may have: each
// costs the same.
func TestManyPlacesInATransaction(t *testing.T) {
	const many = 1 << 18
	places := make([]int, many)
	for i := range places {
		places[i] = i
	}
	ended := make(chan int, 1)
	go func() {
		h := heads{whole: places}
		short := h.add(nil, append(redcon.AppendArray(nil, many), strings.Repeat(":1\r\n", many)...))
		ended <- strings.Count(string(short), ":1\r\n") + len(pick(places, places))
	}()
	select {
	case n := <-ended:
		if n != 2*many {
			t.Errorf("%d places are kept and found", n)
		}
	case <-time.After(patience):
		t.Error("it takes too long")
	}
}
