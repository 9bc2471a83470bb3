package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/verify"
)

func verifyVerb() *verb {
	return &verb{name: "verify", short: "compare both sides, key by key", run: verifySides, long: `
Compares values, types, expiries, and streams' groups both ways while clients go
on. A difference is reported when it is proved: the key stood still over three
looks, and what was written before had arrived.

It asks the running crossfade, or compares two servers by itself, which is what
--source, --target or --direct mean:

  crossfade verify
  crossfade verify --repair
  crossfade verify --source redis://A --target rediss://B --map 0=0,3=5

Exit status 0: equal, or equal now; 3: some keys differ; 1: it could not tell
(a server or the sidecar cannot be reached, the copy is not live, or there are
keys that cannot be compared).`}
}

// directFlags are those of the configuration that name two servers and what belongs
// to whose databases.
var directFlags = []string{"source", "target", "databases", "map", "leave_out", "leave-out", "sync.match", "sync.types", "sync.field_expiries", "sync.accept_loss", "verify.parallel", "proxy.dial_timeout", "log", "log-level", "log-format"}

// verification is what was asked for.
type verification struct {
	*flags
	config         config.Config
	sample         float64
	repair, asJSON bool
	report         string
}

func verifySides(ctx context.Context, s *session) error {
	f := s.flagsOf(append(append([]string{}, directFlags...), doorFlags...)...)
	v := verification{flags: f}
	f.set.Float64Var(&v.sample, "sample", 1, "the `SHARE` of the keys to compare, above 0 and up to 1")
	f.set.BoolVar(&v.repair, "repair", false, "copy again what differs, remove what is too much, and compare these once more")
	f.set.BoolVar(&v.asJSON, "json", false, "print JSON")
	f.set.StringVar(&v.report, "report", "", "write the report to `FILE`.json and FILE.txt as well")
	direct := f.set.Bool("direct", false, "compare the configuration's two servers without a running crossfade")
	last := f.set.Bool("last", false, "print the last report of the running crossfade again, and whether it is stale")
	var err error
	if v.config, err = f.parse(); err != nil {
		return err
	}
	if !(v.sample > 0 && v.sample <= 1) {
		return usage(fmt.Errorf("verify: --sample %v is out of range: give a share above 0 and up to 1, such as 0.1", v.sample))
	}
	alone := *direct || f.givenUnder("source", "target")
	switch {
	case alone && *last:
		return usage(errors.New("verify: --last asks the running crossfade: leave --direct, --source and --target out"))
	case *last && v.repair:
		return usage(errors.New("verify: --last only prints a report: leave --repair out"))
	case !alone && f.givenUnder(directFlags...):
		return usage(errors.New("verify: the sidecar that is asked (--admin) has its own settings: give --source and --target, or --direct, to compare two servers without it"))
	}
	var r verify.Report
	switch {
	case alone:
		r, err = v.direct(ctx)
	case *last:
		r, err = v.last(ctx)
	default:
		r, err = v.ask(ctx)
	}
	return v.finish(ctx, r, err)
}

// givenUnder reports whether one of the flags, or one below it, was written.
func (f *flags) givenUnder(names ...string) bool {
	for _, name := range f.givenNames() {
		for _, n := range names {
			if name == n || strings.HasPrefix(name, n+".") {
				return true
			}
		}
	}
	return false
}

// direct compares two servers by itself.
func (v *verification) direct(ctx context.Context) (verify.Report, error) {
	if err := v.config.ValidateServers(); err != nil {
		return verify.Report{}, usage(problems(err))
	}
	conn.RouteLogs(newLogger(v.stderr, v.config.Log))
	show := newProgressLine(v.stderr, v.asJSON)
	defer show.end()
	return migration.VerifyServers(ctx, v.config, migration.VerifyOptions{Sample: v.sample, Repair: v.repair}, show.progress)
}

// ask lets the running sidecar compare.
func (v *verification) ask(ctx context.Context) (verify.Report, error) {
	door, err := client(v.config)
	if err != nil {
		return verify.Report{}, err
	}
	defer door.Close()
	stop := watchVerify(ctx, v.config, newProgressLine(v.stderr, v.asJSON))
	r, err := door.Verify(ctx, admin.VerifyRequest{Sample: v.sample, Repair: v.repair})
	stop()
	return r, err
}

func (v *verification) last(ctx context.Context) (verify.Report, error) {
	door, err := client(v.config)
	if err != nil {
		return verify.Report{}, err
	}
	defer door.Close()
	return door.Verified(ctx)
}

// finish prints the report, writes its file, and says by the exit status what it
// comes to.
func (v *verification) finish(ctx context.Context, r verify.Report, err error) error {
	var answered *admin.Error
	if errors.As(err, &answered) {
		// Not 3: that is for differences.
		return &exitError{code: exitFailed, err: v.failed(err, v.asJSON)}
	}
	if err != nil && len(r.Databases) == 0 {
		return err
	}
	if v.asJSON {
		err = errors.Join(err, printJSON(v.stdout, r))
	} else if _, e := io.WriteString(v.stdout, r.String()); e != nil {
		err = errors.Join(err, e)
	}
	if v.report != "" {
		err = errors.Join(err, verify.Write(v.report, r))
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	switch {
	case r.Left() > 0:
		if err != nil {
			say(v.stderr, err.Error())
		}
		return refused("the sides differ")
	case err != nil:
		return err
	case !r.OK():
		return fmt.Errorf("verify could not tell about %s", plural(int(r.Undecided), "key"))
	}
	return nil
}
