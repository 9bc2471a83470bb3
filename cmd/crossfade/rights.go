package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/sync/conn"
)

// noHash stands where the hash of a password belongs: the server refuses it as it is.
const noHash = "#SHA256"

// rules prints what the user of our URLs has to be allowed.
func (f userFlags) rules(ctx context.Context, name string) error {
	if name == "" || strings.ContainsAny(name, " \t'\"\\") || name == "default" || name == migration.OwnUser {
		return usage(errors.New("acl: --user: give a name of its own, without spaces or quotes, and neither default nor " + migration.OwnUser))
	}
	conn.RouteLogs(newLogger(f.stderr, f.config.Log))
	r, err := migration.Rights(ctx, f.config)
	if err != nil {
		return err
	}
	if f.asJSON {
		return printJSON(f.stdout, struct {
			User string `json:"user"`
			migration.RightsReport
		}{name, r})
	}
	var b strings.Builder
	b.WriteString("# A user that may do what a migration needs, there and back, and nothing else.\n" +
		"# " + noHash + " stands for the hash of a password of yours: printf %s PASSWORD | sha256sum\n" +
		"# Then give the user in both URLs, and set cutover.create_user: false.\n")
	for _, side := range []struct {
		what string
		at   preflight.OwnRights
	}{{"source", r.Source}, {"target", r.Target}} {
		fmt.Fprintf(&b, "\n# on the %s, %s, which is %s:\nACL SETUSER %s reset on %s %s\n",
			side.what, side.at.Server, side.at.Product, name, noHash, strings.Join(side.at.Rules, " "))
	}
	_, err = io.WriteString(f.stdout, b.String())
	return err
}
