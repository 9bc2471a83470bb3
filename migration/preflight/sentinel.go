package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/crossfade/crossfade/internal/sentinel"
)

// asks is a finder that can tell what each sentinel says.
type asks interface {
	Name() string
	Views(ctx context.Context) []sentinel.View
}

// checkSentinels asks the sentinels that watch a server whether they know its master,
// agree about it, and could decide a failover.
func checkSentinels(ctx context.Context, in *inspection) []Finding {
	var out []Finding
	for _, s := range []*server{in.from, in.to} {
		if f, is := s.pool.Endpoint().Finder.(asks); is {
			out = append(out, judgeSentinels(s, f.Name(), f.Views(ctx))...)
		}
	}
	return out
}

func judgeSentinels(s *server, name string, views []sentinel.View) []Finding {
	var out []Finding
	var silent, masters, others, doubts []string
	known := make(map[string]bool)
	for _, v := range views {
		known[v.Sentinel] = true
		switch {
		case v.Err != nil:
			silent = append(silent, fmt.Sprintf("%s: %v", v.Sentinel, v.Err))
			continue
		case v.NoQuorum != nil:
			doubts = append(doubts, fmt.Sprintf("%s: %v", v.Sentinel, v.NoQuorum))
		}
		if !slices.Contains(masters, v.Master) {
			masters = append(masters, v.Master)
		}
		others = append(others, v.Others...)
	}
	slices.Sort(others)
	others = slices.DeleteFunc(slices.Compact(others), func(o string) bool { return known[o] })
	url := s.name + ".url"
	switch {
	case len(masters) == 0:
		return one(fail("Look whether the sentinels run, and whether "+url+" names them and the master as they do (SENTINEL MASTERS on a sentinel shows its masters; their own password is "+s.name+".sentinel.password).",
			"%s: no sentinel says where the master %q is: %s", s.name, name, strings.Join(silent, "; ")))
	case len(masters) > 1:
		out = append(out, warn("Wait until a failover that is under way is through; the newest configuration counts.",
			"%s: the sentinels do not agree where the master %q is: %s", s.name, name, strings.Join(masters, ", ")))
	}
	if len(silent) > 0 {
		out = append(out, warn("Start those, or take them out of "+url+": fewer may be too few to decide a failover, and to tell of one.",
			"%s: %d of %d sentinels do not say where the master is: %s", s.name, len(silent), len(views), strings.Join(silent, "; ")))
	}
	if len(doubts) > 0 {
		out = append(out, warn("Mend that first (SENTINEL CKQUORUM "+name+"): if the master died now, nothing would take its place.",
			"%s: no failover could be decided: %s", s.name, strings.Join(doubts, "; ")))
	}
	// An address that a sentinel has announced may be another one for the same sentinel.
	if len(others) > 0 && len(views) == 1 {
		out = append(out, warn("Name them all in "+url+", so that one may be down: "+strings.Join(others, ", ")+".",
			"%s: only one sentinel is named, and there are %d more", s.name, len(others)))
	}
	if len(out) == 0 {
		out = one(pass("%s: %d sentinels say that the master %q is %s", s.name, len(views), name, masters[0]))
	}
	return out
}
