package proxy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// TestTurnsInOrder puts places in line in any order: they come out in the order in
// which they were taken, each as soon as nobody before it wants one of its keys.
func TestTurnsInOrder(t *testing.T) {
	var line turns
	const many = 200
	all := make([]*turn, many)
	for i := range all {
		all[i] = line.take([]string{fmt.Sprint(i % 3), "other " + fmt.Sprint(i)})
	}
	for _, i := range rand.Perm(many) {
		line.join(all[i])
		line.join(all[i])
	}
	came := make(chan int, many)
	for i := range all {
		go func() {
			if line.await(all[i], nil) {
				came <- i
			}
			line.pass(all[i])
		}()
	}
	last := map[int]int{0: -3, 1: -2, 2: -1}
	for range all {
		i := <-came
		if last[i%3]+3 != i {
			t.Fatalf("%d came after %d", i, last[i%3])
		}
		last[i%3] = i
	}
	for _, x := range all {
		line.quit(x)
		line.join(x) // too late
	}
	if len(line.lines) != 0 {
		t.Errorf("%d lines are left", len(line.lines))
	}
	stop := make(chan struct{})
	line.join(line.take([]string{"k"}))
	late := line.take([]string{"k"})
	line.join(late)
	close(stop)
	if line.await(late, stop) {
		t.Error("it came although it was not its turn")
	}
}

func TestWhatIsAwaited(t *testing.T) {
	for words, want := range map[string]string{
		"BLPOP b a b 0":                             "3:a 3:b",
		"BZPOPMAX z 1":                              "3:z",
		"BLMOVE from to LEFT RIGHT 0":               "3:from",
		"BRPOPLPUSH from to 0":                      "3:from",
		"BLMPOP 0 2 a b LEFT COUNT 1":               "3:a 3:b",
		"BZMPOP 0 9 a b MIN":                        "",
		"XREADGROUP GROUP g c BLOCK 0 STREAMS s > ": "3:s",
		"XREAD BLOCK 0 STREAMS s $":                 "",
		"WAIT 1 0":                                  "",
	} {
		var args [][]byte
		for word := range strings.FieldsSeq(words) {
			args = append(args, []byte(word))
		}
		if got := strings.Join(awaited(lookup(args[0]), args, 3), " "); got != want {
			t.Errorf("%s: %q, want %q", words, got, want)
		}
	}
}

// TestWaitersKeepTheirOrder moves clients that wait in a line there and back: they are
// served as they came, and so is who comes while they begin anew.
func TestWaitersKeepTheirOrder(t *testing.T) {
	w := newWorld(t)
	const many = 60
	waiters := make([]*raw, many)
	for i := range waiters {
		waiters[i] = w.client()
		key := []string{"q", "q2 q", "q3 q"}[i%3]
		waiters[i].send("BLPOP " + key + " 0")
		until(t, "it blocks", func() bool {
			return strings.Contains(fmt.Sprint(w.do(router.Source, 0, "INFO", "clients")), fmt.Sprintf("blocked_clients:%d\r", i+1))
		})
	}
	w.switchTo(router.Target)
	w.switchTo(router.Source)
	w.switchTo(router.Target)
	app, last := w.client(), w.client()
	last.send("PING", "BLPOP q 0")
	last.expect("+PONG\r\n")
	for i := range many + 1 {
		app.send(fmt.Sprintf("RPUSH q %d", i))
		app.next()
	}
	for i, c := range append(waiters, last) {
		c.expect("*2\r\n$1\r\nq\r\n" + bulk(fmt.Sprint(i)))
	}
	if len(w.proxy.turns.lines) != 0 {
		t.Errorf("%d lines are left", len(w.proxy.turns.lines))
	}
}

// TestTurnsOfThoseWhoLeave: who hangs up, or whose time is over, holds up nobody.
func TestTurnsOfThoseWhoLeave(t *testing.T) {
	w := newWorld(t)
	begun := time.Now()
	waiters := make([]*raw, 12)
	for i := range waiters {
		waiters[i] = w.client()
		timeout := "0"
		if i%3 == 1 {
			timeout = "0x1" // to servers, a second
		}
		waiters[i].send("BLPOP q " + timeout)
		until(t, "it blocks", func() bool {
			return strings.Contains(fmt.Sprint(w.do(router.Source, 0, "INFO", "clients")), fmt.Sprintf("blocked_clients:%d\r", i+1))
		})
	}
	w.switchTo(router.Target, func() {
		for i := 0; i < len(waiters); i += 3 {
			waiters[i].close()
		}
		until(t, "the time of some is over", func() bool { return time.Since(begun) > 1100*time.Millisecond })
	})
	for i := 1; i < len(waiters); i += 3 {
		waiters[i].expect("*-1\r\n")
	}
	app := w.client()
	app.want("RPUSH q a b c d e", ":5\r\n")
	for i := 2; i < len(waiters); i += 3 {
		waiters[i].expect("*2\r\n$1\r\nq\r\n" + bulk(string(rune('a'+i/3))))
	}
	app.want("LRANGE q 0 -1", "*1\r\n$1\r\ne\r\n")
}

// TestWaiterWhoMayNotAskItsID: a user without the right to CLIENT ID is found by its address.
func TestWaiterWhoMayNotAskItsID(t *testing.T) {
	acl := redistest.WithACL("worker on >p ~* +@read +@write")
	w := newWorldOn(t, redistest.Start(t, acl), redistest.Start(t, acl))
	all := make([]*raw, 5)
	for i := range all {
		all[i] = w.client()
		all[i].want("AUTH worker p", ok)
		if got := all[i].do("CLIENT ID"); !strings.HasPrefix(got, "-NOPERM") {
			t.Fatalf("got %q", got)
		}
		all[i].send("BLPOP q 0")
		until(t, "it blocks", func() bool {
			return strings.Contains(fmt.Sprint(w.do(router.Source, 0, "INFO", "clients")), fmt.Sprintf("blocked_clients:%d\r", i+1))
		})
	}
	w.switchTo(router.Target)
	w.switchTo(router.Source)
	app := w.client()
	app.want("RPUSH q 0 1 2 3 4", ":5\r\n")
	for i, c := range all {
		c.expect("*2\r\n$1\r\nq\r\n" + bulk(fmt.Sprint(i)))
	}
}

// TestTurnComesElsewhere: a client whose database does not move waits in line when the
// traffic does. When its turn has come, it is refused like the one before it, and takes
// nothing out of another database there.
func TestTurnComesElsewhere(t *testing.T) {
	w := newWorld(t)
	first, second := w.client(), w.client()
	for _, c := range []*raw{first, second} {
		c.do("CLIENT ID") // it has a connection of its own from here on
		c.want("SELECT 9", ok)
	}
	first.send("BLPOP q 0")
	w.blockedOn(router.Source, "blpop")
	w.do(router.Target, 0, "RPUSH", "q", "another's")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.proxy.Hold(ctx); err != nil {
		t.Fatal(err)
	}
	if err := w.source.Stop(); err != nil {
		t.Fatal(err)
	}
	w.proxy.Release(w.gate.Route())
	until(t, "the first is sent again", func() bool { return w.gate.Inside() == 1 })
	second.send("BLPOP q 0")
	until(t, "the second stands in line", func() bool { return w.gate.Inside() == 2 })
	held := make(chan error, 1)
	go func() { held <- w.proxy.Hold(ctx) }()
	until(t, "the second waits at the gate", func() bool { return w.gate.IsShut() && w.gate.Inside() == 1 })
	if err := w.source.Cont(); err != nil {
		t.Fatal(err)
	}
	if err := <-held; err != nil {
		t.Fatal(err)
	}
	w.epoch++
	w.proxy.Release(router.Route{Side: router.Target, Epoch: w.epoch, Map: w.dbs})
	for _, c := range []*raw{first, second} {
		c.expect("-" + unmapped(9) + "\r\n")
	}
	if got := w.do(router.Target, 0, "LLEN", "q"); fmt.Sprint(got) != "1" {
		t.Errorf("the list there has %v elements", got)
	}
}
