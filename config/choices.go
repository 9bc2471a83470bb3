package config

import (
	"slices"
	"strings"
)

// choices are the words of keys that take one of a few. What refuses others, what
// completes a command line and the reference go by it.
var choices = map[string][]string{
	"source.sentinel.tls":   sentinelTLS,
	"target.sentinel.tls":   sentinelTLS,
	"admin.tls.client_auth": {"none", "optional", "required"},
	"admin.tls.min_version": {"1.2", "1.3"},
	"proxy.tls.client_auth": {"none", "optional", "required"},
	"proxy.tls.min_version": {"1.2", "1.3"},
	"proxy.proxy_protocol":  {"off", "optional", "required"},
	"proxy.upstream":        {"shared", "pinned"},
	"sync.feed":             {"auto", "notifications", "tracking"},
	"sync.field_expiries":   {"keep", "drop"},
	"verify.gate":           {"off", "known", "passed"},
	"role":                  {"full", "proxy", "sync"},
	"fleet.store":           {"target", "etcd"},
	"log.level":             {"debug", "info", "warn", "error"},
	"log.format":            {"text", "json", "auto"},
}

var sentinelTLS = []string{"same", "on", "off"}

// mayBe reports whether a key may have the value.
func mayBe(key, value string) bool { return slices.Contains(choices[key], value) }

// oneOf names the words of a key.
func oneOf(key string) string { return strings.Join(choices[key], ", ") }
