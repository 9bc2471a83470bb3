// Package admin is the operator's door: HTTP on a unix socket or a port, and the client for it.
// It owns who may knock, the words of its refusals and the JSON of requests and replies.
// It never decides anything about a migration: each verb is one call to the Operator.
package admin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/sync/throttle"
	"github.com/crossfade/crossfade/sync/verify"
)

// Operator is what the verbs are carried out by: *migration.Migration. Its methods
// may be called from several goroutines.
type Operator interface {
	Status() migration.Status
	Cutover(context.Context, migration.SwitchOptions) (migration.Report, error)
	Rollback(context.Context, migration.SwitchOptions) (migration.Report, error)
	Abort(context.Context) error
	Complete(context.Context, migration.CompleteOptions) ([]string, error)
	Throttle(migration.ThrottleOptions) throttle.Status
	Verify(context.Context, migration.VerifyOptions) (verify.Report, error)
	Shadow(migration.ShadowOptions) migration.ShadowStatus
	LastVerification() (verify.Report, bool)
	Look(context.Context) (migration.CheckReport, error)
	LastLook() (migration.CheckReport, bool)
}

// The bodies of requests. An empty body is the zero value.
type (
	// SwitchRequest is for /v1/cutover and /v1/rollback.
	SwitchRequest struct {
		DryRun   bool `json:"dry_run,omitempty"`
		Rehearse bool `json:"rehearse,omitempty"`
		// OneWay accepts that there will be no way back, where there will be none.
		OneWay bool `json:"one_way,omitempty"`
		// MaxStall and MaxLag are Go durations such as "500ms"; empty: as configured.
		MaxStall string `json:"max_stall,omitempty"`
		MaxLag   string `json:"max_lag,omitempty"`
		// WhenReady has the switch wait until the copy is close, At until a time (RFC
		// 3339) or a time of day (03:00). Timeout is a Go duration, "0s" for ever.
		WhenReady bool   `json:"when_ready,omitempty"`
		At        string `json:"at,omitempty"`
		Timeout   string `json:"timeout,omitempty"`
		Retries   *int   `json:"retries,omitempty"`
	}
	// CompleteRequest is for /v1/complete.
	CompleteRequest struct {
		StayOnSource bool `json:"stay_on_source,omitempty"`
	}
	// ThrottleRequest is for /v1/throttle. What is left out stays as it is; 0 is no
	// bound.
	ThrottleRequest struct {
		Keys   *int64 `json:"keys_per_second,omitempty"`
		Bytes  *int64 `json:"bytes_per_second,omitempty"`
		Paused *bool  `json:"paused,omitempty"`
		// Scheduled takes back what was set, so that the schedule counts again; it is
		// given alone.
		Scheduled bool `json:"scheduled,omitempty"`
	}
	// ShadowRequest is for /v1/shadow. Percent is how many of a hundred plain reads the
	// target is asked too; left out, it stays as it is.
	ShadowRequest struct {
		Percent *int `json:"percent,omitempty"`
	}
	// VerifyRequest is for /v1/verify. Sample is the share of the keys that is
	// compared, above 0 and at most 1; 0 means all of them. Repair makes equal what
	// differs.
	VerifyRequest struct {
		Sample float64 `json:"sample,omitempty"`
		Repair bool    `json:"repair,omitempty"`
	}
)

// The bodies of replies that are not the Operator's own types.
type (
	// Done says what /v1/abort and /v1/complete did, a sentence each.
	Done struct {
		Done []string `json:"done"`
	}
	// AliveReply is of /healthz.
	AliveReply struct {
		Alive bool `json:"alive"`
	}
	// ReadyReply is of /readyz.
	ReadyReply struct {
		Ready bool `json:"ready"`
	}
	// VersionReply is of /v1/version.
	VersionReply struct {
		Version string `json:"version"`
	}
)

// Error is a reply that is not 200, and what the client's methods return for one.
type Error struct {
	// Code is the HTTP status. 409 means refused by a check.
	Code int `json:"-"`
	// Message is one sentence, Reasons are all of them where there are several.
	Message string   `json:"error"`
	Reasons []string `json:"reasons,omitempty"`
	// Hint says what to do.
	Hint string `json:"hint,omitempty"`
	// Report is of a switch that was begun.
	Report *migration.Report `json:"report,omitempty"`
}

func (e *Error) Error() string { return e.Message }

// ErrStopping is the cause with which a verb's context ends when the sidecar stops.
var ErrStopping = errors.New("crossfade is stopping")

// maxRetries bounds what may be asked for.
const maxRetries = 1000

// options reads a SwitchRequest.
func (r SwitchRequest) options() (o migration.SwitchOptions, err error) {
	o = migration.SwitchOptions{DryRun: r.DryRun, Rehearse: r.Rehearse, OneWay: r.OneWay, WhenReady: r.WhenReady, At: r.At, Retries: r.Retries}
	if r.DryRun && r.Rehearse {
		return o, errors.New("dry_run and rehearse: ask for one of the two")
	}
	if r.Retries != nil && (*r.Retries < 0 || *r.Retries > maxRetries) {
		return o, fmt.Errorf("retries: %d is out of range: give 0 to %d", *r.Retries, maxRetries)
	}
	if o.MaxStall, err = readDuration("max_stall", r.MaxStall, time.Nanosecond); err != nil {
		return o, err
	}
	if o.MaxLag, err = readDuration("max_lag", r.MaxLag, time.Nanosecond); err != nil {
		return o, err
	}
	if r.Timeout != "" {
		timeout, err := readDuration("timeout", r.Timeout, 0)
		if err != nil {
			return o, err
		}
		o.Timeout = &timeout
	}
	return o, nil
}

// readDuration reads one that is not below least; 0 where nothing is written.
func readDuration(name, text string, least time.Duration) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < least {
		return 0, errors.New(name + ": " + quoted(text) + " is no duration: write one such as \"500ms\"")
	}
	return d, nil
}
