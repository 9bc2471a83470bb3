package keyspec

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/go-redis/v9"
)

// saidBy asks a server for its commands.
func saidBy(t testing.TB, s *redistest.Server, proto int) []Command {
	t.Helper()
	o := redistest.Options(s.Addr(), 0)
	o.Protocol = proto
	c := redis.NewClient(o)
	defer func() { _ = c.Close() }()
	reply, err := c.Do(context.Background(), "COMMAND").Slice()
	if err != nil {
		t.Fatal(err)
	}
	list, err := Parse(reply)
	if errors.Is(err, errOld) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestTableIsWhatTheServerSays fails where the distribution's server has a command that
// the table has not, or says anything else of it: go generate makes it anew.
func TestTableIsWhatTheServerSays(t *testing.T) {
	if os.Getenv("REDIS_SERVER") != "" {
		t.Skip("another server than the distribution's")
	}
	s := redistest.Start(t)
	for _, proto := range []int{2, 3} {
		list := saidBy(t, s, proto)
		if len(list) < 200 {
			t.Fatalf("the server has said something of %d commands only", len(list))
		}
		for _, c := range list {
			isKnown(t, Named(c.Name), c, func(c Command) Command { return c })
		}
	}
}

// TestOtherServersHaveNoOtherKeys compares where keys are with what servers of other
// versions say: they may do other things with them.
func TestOtherServersHaveNoOtherKeys(t *testing.T) {
	programs, err := redistest.Programs()
	if err != nil {
		t.Fatal(err)
	}
	if len(programs) == 0 {
		t.Skip("CROSSFADE_SERVERS names none")
	}
	places := func(c Command) Command {
		if oddities[c.Name] != even {
			return Command{Name: c.Name} // its words are read without specs
		}
		specs := slices.Clone(c.Specs)
		for i := range specs {
			specs[i].Use &= NotKey
		}
		return Command{Name: c.Name, Specs: specs}
	}
	for _, p := range programs {
		t.Run(p.Name, func(t *testing.T) {
			for _, c := range saidBy(t, redistest.Start(t, redistest.WithBinary(p.Path)), 3) {
				isKnown(t, Named(c.Name), c, places)
			}
		})
	}
}

// TestUnseenIsUnseen: what a server has said counts.
func TestUnseenIsUnseen(t *testing.T) {
	for _, c := range unseen {
		if slices.ContainsFunc(table, func(said Command) bool { return said.Name == c.Name }) {
			t.Errorf("%s is in the table, and need not be written by hand", c.Name)
		}
	}
}

// isKnown compares what the table has of a command with what a server says of it. Other
// servers' subcommands are in the table as well.
func isKnown(t *testing.T, known *Command, said Command, what func(Command) Command) {
	t.Helper()
	if known == nil {
		t.Errorf("%s is not in the table", said.Name)
		return
	}
	if diff := cmp.Diff(what(*known), what(said), cmpopts.IgnoreUnexported(Command{}), cmpopts.IgnoreFields(Command{}, "Subs")); diff != "" {
		t.Errorf("%s is not as in the table: %s", said.Name, diff)
	}
	for _, sub := range said.Subs {
		i := slices.IndexFunc(known.Subs, func(c Command) bool { return c.Name == sub.Name })
		if i < 0 {
			t.Errorf("%s is not in the table", sub.Name)
			continue
		}
		isKnown(t, &known.Subs[i], sub, what)
	}
}
