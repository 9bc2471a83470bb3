// Package admin is the operator's door: HTTP on a unix socket or a port, and the client for it.
// It owns who may knock, the words of its refusals and the JSON of requests and replies.
// It never decides anything about a migration: each verb is one call to the Operator.
package admin

import (
	"context"
	"errors"
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
	LastVerification() (verify.Report, bool)
}

// The bodies of requests. An empty body is the zero value.
type (
	// SwitchRequest is for /v1/cutover and /v1/rollback.
	SwitchRequest struct {
		DryRun bool `json:"dry_run,omitempty"`
		// MaxStall is a Go duration such as "500ms"; empty: as configured.
		MaxStall string `json:"max_stall,omitempty"`
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

// maxStall reads the duration of a SwitchRequest.
func (r SwitchRequest) options() (migration.SwitchOptions, error) {
	o := migration.SwitchOptions{DryRun: r.DryRun}
	if r.MaxStall == "" {
		return o, nil
	}
	d, err := time.ParseDuration(r.MaxStall)
	if err != nil || d <= 0 {
		return o, errors.New("max_stall: " + quoted(r.MaxStall) + " is no duration: write one such as \"500ms\"")
	}
	o.MaxStall = d
	return o, nil
}
