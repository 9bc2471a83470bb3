package acl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Known is which kinds of rules a server knows.
type Known struct {
	Channels  bool // &pattern (Redis 6.2)
	Payloads  bool // skip-sanitize-payload (6.2; Valkey 9 takes it and forgets it)
	HalfKeys  bool // %R~pattern, %W~pattern (7.0)
	Selectors bool // (rules) (7.0)
	Databases bool // db=0,1 (Valkey 9.1)
}

// Server is what there is to know about a server before users are written to it.
type Server struct {
	Catalog Catalog
	Known   Known
	// Refused are command rules of those that were asked about, and why the server does not
	// take them.
	Refused map[string]string
}

const (
	// probeUser is nobody: what is asked in its name is refused as a whole.
	probeUser = "crossfade:probe"
	// wrong is a rule that no server knows.
	wrong = "crossfade?"
)

// Look asks a server which rules it takes. Nothing is changed by that: each question is an
// ACL SETUSER with a wrong rule at its end, which servers refuse as a whole (acl.c works on
// a copy of the user). Which rule the refusal names tells what it thinks of the one before.
func Look(ctx context.Context, c Asker, commands []string) (Server, error) {
	s := Server{Refused: make(map[string]string)}
	var err error
	if s.Catalog, err = ReadCatalog(ctx, c); err != nil {
		return s, err
	}
	kinds := []string{"resetchannels", "skip-sanitize-payload", "%R~probe", "(+ping)", "db=0"}
	words := append(slices.Clone(kinds), commands...)
	why, err := ask(ctx, c, words)
	if err != nil {
		return s, err
	}
	s.Known = Known{Channels: why[0] == "", Payloads: why[1] == "", HalfKeys: why[2] == "", Selectors: why[3] == "", Databases: why[4] == ""}
	for i, w := range commands {
		if reason := why[len(kinds)+i]; reason != "" {
			s.Refused[w] = reason
		}
	}
	if info, err := c.Do(ctx, "INFO", "server").Text(); err == nil && forgetsPayloads(info) {
		s.Known.Payloads = false
	}
	return s, nil
}

// forgetsPayloads: Valkey 9 takes skip-sanitize-payload, and no user has it after that.
func forgetsPayloads(info string) bool {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, "valkey_version:"); ok {
			var major int
			_, err := fmt.Sscan(strings.Split(v, ".")[0], &major)
			return err == nil && major >= 9
		}
	}
	return false
}

// ask returns for each word why the server does not take it, "" for one that it takes.
func ask(ctx context.Context, c Asker, words []string) ([]string, error) {
	p := c.Pipeline()
	answers := make([]*redis.Cmd, len(words))
	for i, w := range words {
		answers[i] = p.Do(ctx, "ACL", "SETUSER", probeUser, w, wrong)
	}
	_, _ = p.Exec(ctx) // each has its own error
	out := make([]string, len(words))
	for i, a := range answers {
		reason, err := refusal(a.Err())
		if err != nil {
			if a.Err() == nil { // it has changed something
				err = errors.Join(err, c.Do(context.WithoutCancel(ctx), "ACL", "DELUSER", probeUser).Err())
			}
			return nil, err
		}
		out[i] = reason
	}
	return out, nil
}

// refusal reads what a server says to rules with a wrong one at their end: "" where it is
// that one which it does not know.
func refusal(err error) (string, error) {
	if err == nil {
		return "", fmt.Errorf("ACL SETUSER %s: the server takes the rule %q, so it cannot be asked about others", probeUser, wrong)
	}
	text, is := strings.CutPrefix(err.Error(), "ERR Error in ACL SETUSER modifier '")
	if !is {
		return "", told("ACL SETUSER", err)
	}
	if strings.HasPrefix(text, wrong+"'") {
		return "", nil
	}
	if i := strings.LastIndex(text, "': "); i >= 0 {
		text = text[i+len("': "):]
	}
	return redacted(strings.TrimSpace(text)), nil
}

// CommandRules are the command rules of users, each once, but those for everything.
func CommandRules(users []User) []string {
	var out []string
	for _, u := range users {
		for _, r := range append([]Rules{u.Root}, u.Selectors...) {
			for _, w := range r.Commands {
				if w != "+@all" && w != "-@all" {
					out = append(out, w)
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
