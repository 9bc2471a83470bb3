package admin

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/audit"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/sync/throttle"
	"github.com/crossfade/crossfade/sync/verify"
)

const (
	dialTimeout = 5 * time.Second
	maxReply    = 16 << 20 // bytes
)

// Client speaks to a sidecar. Safe for concurrent use. Its errors are *Error where
// the sidecar answered, and otherwise say what to look at.
type Client struct {
	address string // as --admin takes it
	base    string
	token   config.Secret
	http    *http.Client
}

// NewClient returns a client for the address and token of the configuration. It
// dials nothing yet.
func NewClient(c config.Admin) (*Client, error) {
	network, address, secure, err := config.SplitDoor(c.Address)
	if err != nil {
		return nil, fmt.Errorf("admin.address: %w", err)
	}
	base := "http://" + address
	if network == "unix" {
		base = "http://crossfade"
	} else if _, port, _ := net.SplitHostPort(address); port == "0" {
		return nil, fmt.Errorf("admin.address: %q has port 0: give the port that `crossfade run` logged", c.Address)
	}
	var settings *tls.Config
	if secure {
		base = "https://" + address
		if settings, err = c.ClientTLS(address); err != nil {
			return nil, err
		}
	}
	dialer := &net.Dialer{Timeout: dialTimeout}
	transport := &http.Transport{
		TLSClientConfig:     settings,
		TLSHandshakeTimeout: dialTimeout,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
		MaxIdleConns:    2,
		IdleConnTimeout: time.Minute,
	}
	return &Client{address: c.Address, base: base, token: c.Token, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Close closes the connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks where the migration stands.
func (c *Client) Status(ctx context.Context) (migration.Status, error) {
	s, err := c.Overview(ctx)
	return s.Status, err
}

// Overview asks where the migration stands, and what the proxy has measured.
func (c *Client) Overview(ctx context.Context) (s StatusReply, err error) {
	return s, c.call(ctx, http.MethodGet, pathStatus, nil, &s)
}

// Slow asks for the slow commands, the latest first.
func (c *Client) Slow(ctx context.Context) ([]SlowCommand, error) {
	var r SlowReply
	err := c.call(ctx, http.MethodGet, pathSlow, nil, &r)
	return r.Slow, err
}

// Audit asks for the last entries of the audit log, the oldest first.
func (c *Client) Audit(ctx context.Context) ([]audit.Entry, error) {
	var r AuditReply
	err := c.call(ctx, http.MethodGet, pathAudit, nil, &r)
	for i := range r.Audit { // on one line again, as in the file
		var text bytes.Buffer
		if json.Compact(&text, r.Audit[i].Asked) == nil {
			r.Audit[i].Asked = text.Bytes()
		}
	}
	return r.Audit, err
}

// Version asks for the sidecar's version.
func (c *Client) Version(ctx context.Context) (string, error) {
	var v VersionReply
	err := c.call(ctx, http.MethodGet, pathVersion, nil, &v)
	return v.Version, err
}

// Cutover asks for the traffic to be moved to the target and waits for the end.
// When ctx ends first, the cutover goes on all the same.
func (c *Client) Cutover(ctx context.Context, o SwitchRequest) (r migration.Report, err error) {
	return r, c.call(ctx, http.MethodPost, pathCutover, o, &r)
}

// Rollback is Cutover the other way round.
func (c *Client) Rollback(ctx context.Context, o SwitchRequest) (r migration.Report, err error) {
	return r, c.call(ctx, http.MethodPost, pathRollback, o, &r)
}

// Abort takes back a switch that is under way.
func (c *Client) Abort(ctx context.Context) (done []string, err error) {
	var d Done
	err = c.call(ctx, http.MethodPost, pathAbort, nil, &d)
	return d.Done, err
}

// Throttle changes how fast scans may copy, and says how fast that is.
func (c *Client) Throttle(ctx context.Context, o ThrottleRequest) (t throttle.Status, err error) {
	return t, c.call(ctx, http.MethodPost, pathThrottle, o, &t)
}

// Shadow changes how many reads the target is asked too, and says what came of them.
func (c *Client) Shadow(ctx context.Context, o ShadowRequest) (r ShadowReply, err error) {
	return r, c.call(ctx, http.MethodPost, pathShadow, o, &r)
}

// Complete ends the migration and says what was done.
func (c *Client) Complete(ctx context.Context, o CompleteRequest) (done []string, err error) {
	var d Done
	err = c.call(ctx, http.MethodPost, pathComplete, o, &d)
	return d.Done, err
}

// Verify compares both sides. It ends with ctx.
func (c *Client) Verify(ctx context.Context, o VerifyRequest) (r verify.Report, err error) {
	return r, c.call(ctx, http.MethodPost, pathVerify, o, &r)
}

// Verified asks for the newest report.
func (c *Client) Verified(ctx context.Context) (r verify.Report, err error) {
	return r, c.call(ctx, http.MethodGet, pathVerified, nil, &r)
}

func (c *Client) call(ctx context.Context, method, path string, body, into any) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return fmt.Errorf("asking %s: %w", path, err)
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("asking %s: %w", path, err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token.Reveal())
	}
	if parent := os.Getenv("TRACEPARENT"); parent != "" { // that of a pipeline whose step this is
		request.Header.Set("Traceparent", parent)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return c.explain(ctx, path, err)
	}
	defer func() { _ = response.Body.Close() }()
	reply, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		return c.explain(ctx, path, err)
	}
	if response.StatusCode != http.StatusOK {
		e := &Error{}
		if err := json.Unmarshal(reply, e); err != nil || e.Message == "" {
			return c.foreign(response.Status)
		}
		e.Code = response.StatusCode
		return e
	}
	if err := json.Unmarshal(reply, into); err != nil {
		return c.foreign("a reply that is not ours")
	}
	return nil
}

func (c *Client) foreign(what string) error {
	return fmt.Errorf("asking the sidecar at %s: it answered %s: is that a crossfade of this version? See --admin", c.address, what)
}

// explain says what a failed request means. One that was sent may have been begun.
func (c *Client) explain(ctx context.Context, path string, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // without method and address, which say nothing here
	}
	var op *net.OpError
	dialing := errors.As(err, &op) && op.Op == "dial"
	var dns *net.DNSError
	switch {
	case errors.Is(err, syscall.EACCES) || errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("no right to open %s: it belongs to the user that `crossfade run` runs as: be that user, or root", c.address)
	case errors.As(err, &dns):
		return fmt.Errorf("no crossfade to be found at %s: %w; is --admin right?", c.address, dns)
	case dialing && errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no crossfade is listening on %s (no such file%s); is `crossfade run` running, and is --admin the same?", c.address, c.where())
	case dialing && errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no crossfade is listening on %s; is `crossfade run` running, and is --admin the same?", c.address)
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return fmt.Errorf("the certificate of the sidecar at %s is not trusted: %w; see admin.client.tls.ca_file", c.address, err)
	case strings.Contains(err.Error(), "tls: certificate required"):
		return fmt.Errorf("the sidecar at %s lets in only who shows a certificate: see admin.client.tls.cert_file", c.address)
	case dialing:
		return fmt.Errorf("no crossfade can be reached at %s: %w; is --admin right?", c.address, op.Err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("the sidecar at %s closed the connection before it answered %s: it has stopped, or something else listens there; its log and `crossfade status` tell", c.address, strings.TrimPrefix(path, "/v1/"))
	}
	return fmt.Errorf("asking the sidecar at %s for %s: %w", c.address, strings.TrimPrefix(path, "/v1/"), err)
}

// where names the folder that a relative socket path was looked for in.
func (c *Client) where() string {
	_, path, err := config.SplitAddress(c.address)
	if dir, err2 := os.Getwd(); err == nil && err2 == nil && !strings.HasPrefix(path, "/") {
		return " in " + dir
	}
	return ""
}
