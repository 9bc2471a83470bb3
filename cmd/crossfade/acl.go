package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/migration/acl"
	"github.com/crossfade/crossfade/sync/conn"
)

func aclVerb() *verb {
	return &verb{name: "acl", short: "ACL users: acl rules, acl plan, acl apply", words: aclWords, run: aclUsers, long: `
  crossfade acl rules --source redis://A --target redis://B
  crossfade acl plan  --source redis://A --target redis://B
  crossfade acl apply --source redis://A --target redis://B

rules prints the ACL SETUSER lines of a user for Crossfade itself on each
server, by its version: with these rights a migration can be made there and
back, and check names each one that is missing.

plan says for each ACL user of the source what would become of it on the target,
and changes nothing; apply does it, in one transaction, and reads it back. None
of them needs a running crossfade. Passwords are copied by their hashes and
never shown.

Nobody gets a right that the source does not give: a user whose rules the target
cannot have is refused, and the others are copied. The user default, and those
as whom Crossfade logs in, are left alone.

Exit status 0: done, or nothing is in the way; 3: some users are refused, or all
of it (a server is fenced, a switch is under way); 1: it failed.`}
}

func aclWords() []string { return []string{"rules", "plan", "apply"} }

// aclFlags are those of the configuration that name two servers, and how keys are called.
var aclFlags = []string{"source", "target", "databases", "map", "config", "proxy.dial_timeout", "log", "log-level", "log-format"}

// userFlags are what is wanted of acl.
type userFlags struct {
	*flags
	config  config.Config
	options acl.Options
	apply   bool
	persist bool
	asJSON  bool
}

func aclUsers(ctx context.Context, s *session) error {
	word := ""
	if len(s.args) > 0 && !strings.HasPrefix(s.args[0], "-") {
		word, s.args = s.args[0], s.args[1:]
	}
	f := userFlags{flags: s.flagsOf(aclFlags...), apply: word == "apply"}
	var users, include, name string
	f.set.StringVar(&users, "users", "", "look at these `NAMES` only, separated by commas")
	f.set.StringVar(&include, "include", "", "copy these `NAMES` too, although they are left alone: default, or the user that we log in as")
	f.set.BoolVar(&f.options.Prune, "prune", false, "remove the users that only the target has, but none that are left alone")
	f.set.BoolVar(&f.options.Weaker, "force-weaker", false, "copy users without the rules that the target cannot have; they may do less then, and never more")
	f.set.BoolVar(&f.persist, "persist", false, "apply: where the target has no aclfile, CONFIG REWRITE, which writes all of its settings")
	f.set.StringVar(&name, "user", "crossfade-migrator", "rules: the `NAME` of the user")
	f.set.BoolVar(&f.asJSON, "json", false, "print JSON")
	var err error
	if f.config, err = f.parse(); err != nil {
		return err
	}
	switch {
	case !slices.Contains(aclWords(), word):
		return usage(fmt.Errorf("acl: say what to do: crossfade acl rules, crossfade acl plan, or crossfade acl apply; see crossfade help acl"))
	case word == "rules" && f.given("users", "include", "prune", "force-weaker", "persist"):
		return usage(errors.New("acl rules copies no users: give --source, --target, --user and --json only"))
	case word != "rules" && f.given("user"):
		return usage(errors.New("acl: --user is for acl rules; --users names those to copy"))
	case f.persist && !f.apply:
		return usage(errors.New("acl: plan changes nothing: leave --persist out"))
	}
	f.options.Users, f.options.Include = names(users), names(include)
	if slices.Contains(f.options.Include, migration.OwnUser) {
		return usage(fmt.Errorf("acl: user %q is Crossfade's own: it is never copied", migration.OwnUser))
	}
	if err := f.config.ValidateServers(); err != nil {
		return usage(problems(err))
	}
	if word == "rules" {
		return f.rules(ctx, name)
	}
	conn.RouteLogs(newLogger(s.stderr, f.config.Log))
	var r migration.UserReport
	if f.apply {
		r, err = migration.ApplyUsers(ctx, f.config, f.options, f.persist)
	} else {
		r, err = migration.PlanUsers(ctx, f.config, f.options)
	}
	return f.finish(ctx, r, err)
}

// names reads a list with commas.
func names(text string) (out []string) {
	for name := range strings.SplitSeq(text, ",") {
		if name = strings.TrimSpace(name); name != "" {
			out = append(out, name)
		}
	}
	return out
}

// finish prints what there is, and says by the exit status what it comes to.
func (f userFlags) finish(ctx context.Context, r migration.UserReport, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err != nil && len(r.Steps) == 0 {
		return err
	}
	var e error
	if f.asJSON {
		text := ""
		if err != nil {
			text = err.Error()
		}
		e = printJSON(f.stdout, struct {
			OK bool `json:"ok"`
			migration.UserReport
			Error string `json:"error,omitempty"`
		}{err == nil && r.Count(acl.Refuse) == 0, r, text})
	} else {
		_, e = io.WriteString(f.stdout, f.text(r))
	}
	switch {
	case err != nil:
		return errors.Join(err, e)
	case e != nil:
		return e
	case r.Count(acl.Refuse) > 0:
		return refused("users are refused")
	}
	return nil
}

func (f userFlags) text(r migration.UserReport) string {
	width := widthOf(f.stdout)
	var b strings.Builder
	b.WriteString(r.Text(width))
	b.WriteString("\n")
	for _, line := range wrap(userSummary(r, f.apply), width) {
		b.WriteString(line + "\n")
	}
	return b.String()
}

func userSummary(r migration.UserReport, apply bool) string {
	create, change, remove := r.Count(acl.Create), r.Count(acl.Change), r.Count(acl.Remove)
	text := fmt.Sprintf("%s to create, %d to change, %d to remove, %d as they should be, %d refused, %d left alone.",
		plural(create, "user"), change, remove, r.Count(acl.Keep), r.Count(acl.Refuse), r.Count(acl.Leave))
	switch {
	case !apply && create+change+remove > 0:
		return text + " Nothing was changed; crossfade acl apply does it."
	case !apply:
		return text
	case !r.Applied:
		return text + " It has failed."
	}
	text = fmt.Sprintf("%s created, %d changed, %d removed, %d were as they should be, %d refused, %d left alone.",
		plural(create, "user"), change, remove, r.Count(acl.Keep), r.Count(acl.Refuse), r.Count(acl.Leave))
	switch r.Kept {
	case acl.InFile:
		text += " They are in the target's aclfile (ACL SAVE)."
	case acl.InConfig:
		text += " They are in the target's configuration file (CONFIG REWRITE)."
	case acl.Nowhere:
		text += " The target has no aclfile and will have forgotten them after a restart: --persist runs CONFIG REWRITE there."
	}
	return text
}
