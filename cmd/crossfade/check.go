package main

import (
	"context"
	"encoding/json"
	"io"

	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/sync/conn"
)

func checkVerb() *verb {
	return &verb{name: "check", short: "look at both servers and say what would go wrong", run: check, long: `
Needs no running crossfade: give --source and --target as for run. It changes no
setting; small keys named crossfade:… are written and taken away again. One row
a finding: pass, warn or fail, and what to do. Exit status 3 with a failure.`}
}

func check(ctx context.Context, s *session) error {
	f := s.flagsOf()
	asJSON := f.set.Bool("json", false, "print JSON")
	c, err := f.parse()
	if err != nil {
		return err
	}
	if err := c.ValidateServers(); err != nil {
		return usage(problems(err))
	}
	conn.RouteLogs(newLogger(s.stderr, c.Log))
	findings, err := migration.Check(ctx, c)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err != nil {
		return err
	}
	failed := preflight.Failed(findings)
	if *asJSON {
		err = printJSON(s.stdout, struct {
			OK       bool                `json:"ok"`
			Findings []preflight.Finding `json:"findings"`
		}{!failed, append([]preflight.Finding{}, findings...)})
	} else {
		_, err = io.WriteString(s.stdout, preflight.Table(findings, widthOf(s.stdout)))
	}
	if err != nil {
		return err
	}
	if failed {
		return refused("check found a failure")
	}
	return nil
}

func printJSON(w io.Writer, value any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(value)
}
