// Package config is the one tree of settings and its defaults.
// It owns reading them (file, then CROSSFADE_… environment, then flags) and checking them.
// It never connects to anything and imports no other package of this project.
package config

import (
	"errors"
	"net/url"
	"time"
)

// Config is everything an operator can set. Durations are Go durations ("50ms"),
// sizes are bytes. A value is complete and checked once Load has returned it;
// it is not changed afterwards.
type Config struct {
	// Listen holds the addresses for clients, see ParseListen.
	Listen []string `koanf:"listen"`
	// State is the file that remembers the migration over restarts.
	State string `koanf:"state"`
	// TakeOver lets a sidecar go on whose place another one has taken, although that one
	// is there.
	TakeOver bool `koanf:"take_over"`

	// Role is "full", "proxy" for a sidecar that serves clients and leaves all else to
	// another one, or "sync" for one that does all else and serves nobody.
	Role string `koanf:"role"`
	// Instance is what people call this sidecar; empty: by its machine and process.
	Instance string `koanf:"instance"`

	Source Server `koanf:"source"`
	Target Server `koanf:"target"`

	// Databases maps source databases to places of the target. Empty: every database of the
	// source keeps its number, except those in LeaveOut.
	Databases map[int]Place `koanf:"databases"`
	// LeaveOut lists source databases that are not moved although they hold keys.
	LeaveOut []int `koanf:"leave_out"`

	// Fleet is where several sidecars meet.
	Fleet Fleet `koanf:"fleet"`

	Admin   Admin   `koanf:"admin"`
	Proxy   Proxy   `koanf:"proxy"`
	Sync    Sync    `koanf:"sync"`
	Verify  Verify  `koanf:"verify"`
	Shadow  Shadow  `koanf:"shadow"`
	Cutover Cutover `koanf:"cutover"`
	// Hooks are told of what happens, see Hook.
	Hooks  []Hook `koanf:"hooks"`
	Audit  Audit  `koanf:"audit"`
	Traces Traces `koanf:"traces"`
	Log    Log    `koanf:"log"`
}

// Server is one of the two Redis servers.
type Server struct {
	// URL is redis://[user[:password]@]host[:port] or rediss://… (TLS), unix:///path, or
	// redis+sentinel://host[:port],…/NAME; the target's may be redis+cluster://host[:port],….
	// It names no database: the database map does.
	URL Secret `koanf:"url"`
	// Username and Password override what the URL says.
	Username string `koanf:"username"`
	Password Secret `koanf:"password"`
	// PasswordFile is read when Password is empty.
	PasswordFile string `koanf:"password_file"`
	TLS          TLS    `koanf:"tls"`
	// Sentinel is for a URL that names sentinels.
	Sentinel Sentinel `koanf:"sentinel"`
}

// TLS says how a rediss:// server is verified. The zero value verifies against
// the system's roots.
type TLS struct {
	CAFile             string `koanf:"ca_file"`
	CertFile           string `koanf:"cert_file"`
	KeyFile            string `koanf:"key_file"`
	ServerName         string `koanf:"server_name"`
	InsecureSkipVerify bool   `koanf:"insecure_skip_verify"`
}

// Admin is the operator's door.
type Admin struct {
	// Address is unix:PATH, HOST:PORT or tls://HOST:PORT.
	Address string `koanf:"address"`
	// Token is asked for on every request when Address is not a unix socket and
	// not loopback; there it must be set.
	Token Secret `koanf:"token"`
	// TokenFile is read by Load, into Token, when Token is empty.
	TokenFile string `koanf:"token_file"`
	// Web is HOST:PORT or tls://HOST:PORT for browsers, besides Address; empty: none.
	Web string `koanf:"web"`
	// ViewToken lets in who may look and change nothing. There must be a Token then.
	ViewToken Secret `koanf:"view_token"`
	// ViewTokenFile is read by Load, into ViewToken, when ViewToken is empty.
	ViewTokenFile string `koanf:"view_token_file"`
	// TLS is for the addresses that begin with tls://.
	TLS ListenTLS `koanf:"tls"`
	// Operators are the names in certificates of those who may change something; empty:
	// all who have a certificate may.
	Operators []string `koanf:"operators"`
	// Client is how the other verbs reach a tls:// Address.
	Client DoorClient `koanf:"client"`
}

// DoorClient is for those who ask the door.
type DoorClient struct {
	TLS TLS `koanf:"tls"`
}

// Proxy is what clients meet.
type Proxy struct {
	// TLS is for the tls:// addresses of Listen.
	TLS ListenTLS `koanf:"tls"`
	// ProxyProtocol is "off", "optional" or "required": whether connections from
	// ProxyProtocolFrom begin with a header of the PROXY protocol.
	ProxyProtocol string `koanf:"proxy_protocol"`
	// ProxyProtocolFrom lists the networks (CIDR) and addresses whose headers are
	// believed; "unix" is for unix sockets.
	ProxyProtocolFrom []string `koanf:"proxy_protocol_from"`
	// Credentials are clients whom the target knows by other credentials.
	Credentials []Credential `koanf:"credentials"`
	// Users are the only ones to be let in, when there are any.
	Users      []User `koanf:"users"`
	MaxClients int    `koanf:"max_clients"`
	// Upstream is "shared" or "pinned": whether plain commands of many clients
	// travel on shared connections, or each client has a connection of its own.
	Upstream string `koanf:"upstream"`
	// Loops is how many threads serve shared connections; 0 goes by the cores.
	Loops int `koanf:"loops"`
	// OutputLimit is how many bytes of replies may wait for one client, in bytes.
	OutputLimit int `koanf:"output_limit"`
	// OutputTimeout is how long a client may take nothing of its replies; 0 is for ever.
	OutputTimeout time.Duration `koanf:"output_timeout"`
	// SlowLogEntries is how many slow commands are remembered; 0 turns the slow log off.
	SlowLogEntries int `koanf:"slow_log_entries"`
	// SlowLogSlowerThan is from when on a command is slow: 0 is all of them, less none.
	SlowLogSlowerThan time.Duration `koanf:"slow_log_slower_than"`
	// QueryLimit is how many bytes of one command are kept of a client.
	QueryLimit int `koanf:"query_limit"`
	// MaxBulk is how many bytes one argument of a command may have.
	MaxBulk int `koanf:"max_bulk"`
	// MaxMemory is how many bytes the buffers of all clients may hold; 0 is no bound.
	MaxMemory int `koanf:"max_memory"`
	// DialTimeout bounds connecting to a server.
	DialTimeout time.Duration `koanf:"dial_timeout"`
	// UpstreamTimeout is how long a server may leave a command unanswered before the
	// clients that wait on that connection are closed; 0 is for ever.
	UpstreamTimeout time.Duration `koanf:"upstream_timeout"`
	// ScriptCache is how many script bodies are remembered, to load them on the target.
	ScriptCache int `koanf:"script_cache"`
	// ShutdownTimeout is how long a stop waits for commands in flight.
	ShutdownTimeout time.Duration `koanf:"shutdown_timeout"`
}

// Sync is how one side is kept equal to the other.
type Sync struct {
	// Workers is how many copies run at the same time.
	Workers int `koanf:"workers"`
	// Batch is how many keys go in one round trip; 0 leaves that to how long one takes.
	Batch int `koanf:"batch"`
	// ScanCount is SCAN's COUNT; 0 is like that of Batch.
	ScanCount int `koanf:"scan_count"`
	// DirtyLimit bounds the dirty keys held in memory, per database; past it, or past
	// 256 bytes of names for each, the database is scanned again instead.
	DirtyLimit int `koanf:"dirty_limit"`
	// MaxLatency is how much longer than at best the servers may take to answer while a
	// scan copies, the 99th percentile; 0 is no limit.
	MaxLatency time.Duration `koanf:"max_latency"`
	// Considerate paces a scan by how soon and how often clients are served.
	Considerate bool `koanf:"considerate"`
	// KeysPerSecond and BytesPerSecond bound what a scan copies; 0 is no bound.
	KeysPerSecond  int `koanf:"keys_per_second"`
	BytesPerSecond int `koanf:"bytes_per_second"`
	// Schedule has limits of their own for times of the week; the first window that is
	// open counts. TimeZone is whose clock is looked at; empty: this machine's.
	Schedule []Window `koanf:"schedule"`
	TimeZone string   `koanf:"time_zone"`
	// Heartbeat is how often a key is written to prove that changes arrive.
	Heartbeat time.Duration `koanf:"heartbeat"`
	// Feed is what tells of changes: "notifications", "tracking" (CLIENT TRACKING), or
	// "auto": tracking where notifications cannot be had.
	Feed string `koanf:"feed"`
	// SetNotifications allows CONFIG SET notify-keyspace-events, put back at complete.
	SetNotifications bool `koanf:"set_notifications"`
	// Match and Types choose the keys that are copied, by patterns as KEYS takes them and
	// by types as TYPE names them. Empty: all.
	Match []string `koanf:"match"`
	Types []string `koanf:"types"`
	// FieldExpiries is what becomes of hashes whose fields expire, towards a server that
	// knows no such thing: "keep" reports each as one that cannot be copied, "drop"
	// copies it without.
	FieldExpiries string `koanf:"field_expiries"`
	// AcceptLoss carries it over when the server that the clients are on comes back
	// with less than half of the keys that the other one has, or as it was before they
	// were moved to it.
	AcceptLoss bool `koanf:"accept_loss"`
}

// Verify is how both sides are compared.
type Verify struct {
	// Rate is how many keys a second are compared in the background, all the time
	// that the copy is live; 0 turns it off.
	Rate int `koanf:"rate"`
	// ByteRate is how many bytes a second of values it reads at most from each side;
	// 0 is no bound.
	ByteRate int `koanf:"byte_rate"`
	// Interval is how much time lies at least between the beginnings of two walks
	// through all keys.
	Interval time.Duration `koanf:"interval"`
	// Parallel is how many comparisons the verb verify makes at the same time.
	Parallel int `koanf:"parallel"`
	// Gate says which verification a cutover wants: "off" none, "known" none that
	// found differences, "passed" a complete one without any.
	Gate string `koanf:"gate"`
	// MaxAge is how old that one may be.
	MaxAge time.Duration `koanf:"max_age"`
	// Report is the file for the report of the latest verification, without .json
	// and .txt; empty: beside State.
	Report string `koanf:"report"`
}

// Shadow is which reads the target is asked too, to compare the replies.
type Shadow struct {
	// Percent is how many of a hundred; 0 is none.
	Percent int `koanf:"percent"`
	// CleanReads is how many must have been answered alike since the last difference
	// before a cutover may be made; 0 asks for none.
	CleanReads int `koanf:"clean_reads"`
}

// Cutover is how the switch is made, there and back.
type Cutover struct {
	// MaxStall is how long clients may wait; past it the attempt undoes itself.
	MaxStall time.Duration `koanf:"max_stall"`
	// MaxLag is the heartbeat lag below which a cutover may start.
	MaxLag time.Duration `koanf:"max_lag"`
	// WaitReady is how long a cutover waits to become ready before it gives up.
	WaitReady time.Duration `koanf:"wait_ready"`
	// Timeout is how long a switch that waits for its moment does so; 0 is for ever.
	Timeout time.Duration `koanf:"timeout"`
	// Retries is how many more attempts one that waits makes when clients would have
	// waited for too long, RetryWait what lies before the first of them.
	Retries   int           `koanf:"retries"`
	RetryWait time.Duration `koanf:"retry_wait"`
	// PostponeFile keeps cutovers waiting as long as it exists; empty: none does.
	PostponeFile string `koanf:"postpone_file"`
	// TimeZone is whose clock a time of day is read by; empty: this machine's.
	TimeZone string `koanf:"time_zone"`
	// CheckSample is how many keys are compared while both sides are frozen.
	CheckSample int `koanf:"check_sample"`
	// CreateUser allows creating the user "crossfade" on both servers with ACL
	// SETUSER; the strongest fence needs it. Removed at complete.
	CreateUser bool `koanf:"create_user"`
	// AllowPartial allows a cutover although only a part of the keys is copied.
	AllowPartial bool `koanf:"allow_partial"`
	// Unsafe allows a cutover without any fence at the source.
	Unsafe bool `koanf:"unsafe"`
}

// Audit is the log of who did what when.
type Audit struct {
	// File is where it is kept; empty: beside State.
	File string `koanf:"file"`
}

// AuditFile returns where the audit log is kept.
func (c Config) AuditFile() string {
	if c.Audit.File != "" {
		return c.Audit.File
	}
	return c.State + ".audit"
}

// Traces are spans of what operators have asked for.
type Traces struct {
	// URL is that of a collector, see Endpoint; empty: nothing is sent.
	URL Secret `koanf:"url"`
}

// Endpoint reads URL, which without a path is that of a collector's host.
func (t Traces) Endpoint() (*url.URL, error) {
	u, err := url.Parse(t.URL.Reveal())
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("url: not one of http://HOST:PORT or https://HOST:PORT, with a path or without: give where the collector takes OTLP over HTTP, such as http://127.0.0.1:4318")
	case u.User != nil:
		return nil, errors.New("url: it has a user: give what the collector wants to see in OTEL_EXPORTER_OTLP_HEADERS")
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/traces"
	}
	return u, nil
}

// Log is what the process says about itself on standard error.
type Log struct {
	// Level is debug, info, warn or error.
	Level string `koanf:"level"`
	// Format is text, json, or auto: text on a terminal, JSON otherwise.
	Format string `koanf:"format"`
	// StatusInterval is how often a status line is written while work goes on.
	StatusInterval time.Duration `koanf:"status_interval"`
}

// Default returns the defaults: all of them, in one place.
func Default() Config {
	return Config{
		Listen: []string{"127.0.0.1:6380"},
		State:  "crossfade.state",
		Role:   "full",
		Source: Server{Sentinel: Sentinel{TLS: "same"}},
		Target: Server{Sentinel: Sentinel{TLS: "same"}},
		Fleet:  Fleet{Store: "target", Etcd: Etcd{Prefix: "crossfade"}},
		Admin:  Admin{Address: "unix:crossfade.sock", TLS: ListenTLS{ClientAuth: "none", MinVersion: "1.2"}},
		Proxy: Proxy{
			TLS:               ListenTLS{ClientAuth: "none", MinVersion: "1.2"},
			ProxyProtocol:     "off",
			MaxClients:        10000,
			Upstream:          "shared",
			Loops:             0,
			OutputLimit:       256 << 20,
			SlowLogEntries:    128,
			SlowLogSlowerThan: 10 * time.Millisecond,
			OutputTimeout:     20 * time.Second,
			QueryLimit:        1 << 30,
			MaxBulk:           512 << 20,
			DialTimeout:       5 * time.Second,
			ScriptCache:       10000,
			ShutdownTimeout:   10 * time.Second,
		},
		Sync: Sync{
			Workers:          4,
			DirtyLimit:       1_000_000,
			Considerate:      true,
			MaxLatency:       50 * time.Millisecond,
			Heartbeat:        time.Second,
			Feed:             "auto",
			SetNotifications: true,
			FieldExpiries:    "keep",
		},
		Verify: Verify{
			Rate:     1000,
			ByteRate: 8 << 20,
			Interval: time.Minute,
			Parallel: 4,
			Gate:     "known",
			MaxAge:   24 * time.Hour,
		},
		Cutover: Cutover{
			MaxStall:    2 * time.Second,
			MaxLag:      500 * time.Millisecond,
			WaitReady:   30 * time.Second,
			Timeout:     time.Hour,
			Retries:     3,
			RetryWait:   5 * time.Second,
			CheckSample: 1000,
			CreateUser:  true,
		},
		Log: Log{Level: "info", Format: "auto", StatusInterval: 5 * time.Second},
	}
}
