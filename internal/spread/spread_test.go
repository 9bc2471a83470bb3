package spread

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/keyspec"
	"github.com/crossfade/crossfade/internal/redistest"
)

// TestAllCommands finds each command and subcommand of the installed server, and of those
// that the table of commands knows, in the table here.
func TestAllCommands(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	srv := redistest.Start(t)
	reply, err := srv.Client(0).Do(ctx, "COMMAND").Slice()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range reply {
		fields := c.([]any)
		name := fields[0].(string)
		if !Known(name) {
			t.Errorf("%s of the server has no row", name)
		}
		for _, s := range fields[9].([]any) {
			if sub := s.([]any)[0].(string); !Known(sub) {
				t.Errorf("%s of the server has no row", sub)
			}
		}
	}
	if len(reply) < 200 {
		t.Errorf("the server has told %d commands only", len(reply))
	}
	for c := range keyspec.All() {
		if !Known(c.Name) {
			t.Errorf("%s has no row", c.Name)
		}
		for _, s := range c.Subs {
			if !Known(s.Name) {
				t.Errorf("%s has no row", s.Name)
			}
		}
	}
}

// TestKeys compares the rows with where keys are: what goes by a slot has some, and what
// has some goes by them.
func TestKeys(t *testing.T) {
	keyed := func(c *keyspec.Command) bool { return len(c.Specs) > 0 }
	check := func(name string, row Row, c *keyspec.Command) {
		byKeys := row.Way == Slot || row.Way == Split
		switch name {
		case "eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro": // it depends on how many
		case "watch", "ssubscribe", "sunsubscribe", "migrate", "restore-asking", "pfdebug", "delex", "digest", "clusterscan": // done here, or not at all
		default:
			if byKeys != keyed(c) {
				t.Errorf("%s: goes by keys: %v, has keys: %v", name, byKeys, keyed(c))
			}
		}
	}
	for name, e := range rows {
		if keyspec.Named(name) == nil {
			t.Errorf("%s is no command: %v", name, e.Way)
		}
	}
	for c := range keyspec.All() {
		words := [][]byte{[]byte(c.Name)}
		check(c.Name, Of(words), c)
		for i := range c.Subs {
			sub := &c.Subs[i]
			_, word, _ := strings.Cut(sub.Name, "|")
			check(sub.Name, Of(append(words, []byte(strings.ToUpper(word)))), sub)
		}
	}
}

// TestTips compares the rows with what the servers advise clients of a cluster.
func TestTips(t *testing.T) {
	others := map[string]string{
		"ping": "any one answers", "info": "made of all", "wait": "in steps", "script|load": "its text is kept", "script|flush": "…",
		"client|setinfo": "told to every connection", "msetnx": "cannot be split", "msetex": "…", "latency|reset": "says how many", "function|stats": "one server's", "randomkey": "", "scan": "", "waitaof": "in steps",
		"memory|doctor": "refused", "memory|malloc-stats": "refused", "memory|stats": "refused",
	}
	check := func(name string, row Row, tips string) {
		if _, but := others[name]; but || tips == "" {
			return
		}
		refused := row.Way == Refused
		if strings.Contains(tips, "request_policy:all_") && row.Way != Masters && !refused {
			t.Errorf("%s: %s, but it goes %d", name, tips, row.Way)
		}
		if strings.Contains(tips, "request_policy:multi_shard") && row.Way != Split {
			t.Errorf("%s: %s, but it goes %d", name, tips, row.Way)
		}
		for tip, merge := range map[string]Merge{"agg_sum": Sum, "all_succeeded": First, "agg_logical_and": And, "one_succeeded": One} {
			if strings.Contains(tips, "response_policy:"+tip) && row.Merge != merge && !refused {
				t.Errorf("%s: %s, but merged %d", name, tips, row.Merge)
			}
		}
	}
	for c := range keyspec.All() {
		check(c.Name, Of([][]byte{[]byte(c.Name)}), c.Tips)
		for _, s := range c.Subs {
			_, word, _ := strings.Cut(s.Name, "|")
			check(s.Name, Of([][]byte{[]byte(c.Name), []byte(word)}), s.Tips)
		}
	}
}

// TestReasons wants each refusal to be an error of a server's form.
func TestReasons(t *testing.T) {
	for name, e := range rows {
		for _, r := range append([]Row{e.Row}, values(e.subs)...) {
			if (r.Way == Refused) != strings.HasPrefix(r.Why, "ERR ") {
				t.Errorf("%s: %d %q", name, r.Way, r.Why)
			}
		}
	}
}

func values(m map[string]Row) (list []Row) {
	for _, r := range m {
		list = append(list, r)
	}
	return list
}

func TestOf(t *testing.T) {
	for line, want := range map[string]Way{
		"GET a": Slot, "mGet a b": Split, "OBJECT encoding a": Slot, "object HELP": Any, "OBJECT nonsense a": Any,
		"nosuch a": Unknown, "CLUSTER INFO": Refused, "cluster": Refused, "CLIENT": Here, "json.get a": Unknown,
		strings.Repeat("x", 100) + " a": Unknown, "CLIENT " + strings.Repeat("x", 100): Here, "PUBSUB NUMSUB": Masters,
	} {
		var args [][]byte
		for word := range strings.FieldsSeq(line) {
			args = append(args, []byte(word))
		}
		if got := Of(args).Way; got != want {
			t.Errorf("%.30s: %d, want %d", line, got, want)
		}
	}
}

func TestBlock(t *testing.T) {
	for _, test := range []struct {
		line    string
		at      int
		d       time.Duration
		forever bool
		ok      bool
	}{
		{"BLPOP a b 1.5", 3, 1500 * time.Millisecond, false, true},
		{"BLPOP a 0", 2, 0, true, true},
		{"BLPOP a -1", 2, 0, false, false},
		{"BLMPOP 2 1 a LEFT", 1, 2 * time.Second, false, true},
		{"XREAD BLOCK 20 STREAMS a $", 2, 20 * time.Millisecond, false, true},
		{"XREAD COUNT 2 STREAMS a $", -1, 0, false, false},
		{"XREADGROUP GROUP block c BLOCK 7 STREAMS a >", 5, 7 * time.Millisecond, false, true},
		{"GET a", -1, 0, false, false},
	} {
		var args [][]byte
		for word := range strings.FieldsSeq(test.line) {
			args = append(args, []byte(word))
		}
		b := Of(args).Blocks
		at := b.Index(args)
		if at != test.at {
			t.Errorf("%s: at %d, want %d", test.line, at, test.at)
			continue
		}
		if at < 0 {
			continue
		}
		d, forever, ok := b.Timeout(args[at])
		if d != test.d || forever != test.forever || ok != test.ok {
			t.Errorf("%s: %v %v %v", test.line, d, forever, ok)
		}
		if ok && !forever {
			if again, f, _ := b.Timeout(b.Format(d)); again != d || f {
				t.Errorf("%s: %v is written as %s", test.line, d, b.Format(d))
			}
		}
	}
	if again, forever, _ := LastSeconds.Timeout(LastSeconds.Format(time.Nanosecond)); again <= 0 || forever {
		t.Errorf("what is left is lost: %v", again)
	}
}
