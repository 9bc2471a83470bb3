package preflight

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// info is the text of INFO all, by field.
type info map[string]string

func parseInfo(text string) info {
	out := make(info)
	for line := range strings.Lines(text) {
		if field, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok && !strings.HasPrefix(field, "#") {
			out[field] = value
		}
	}
	return out
}

// number returns a field as a number, 0 when it is missing.
func (i info) number(field string) int64 {
	n, _ := strconv.ParseInt(i[field], 10, 64)
	return n
}

// valkey reports whether the server is Valkey.
func (i info) valkey() bool { return i["server_name"] == "valkey" || i["valkey_version"] != "" }

// product is "Redis 7.0.15".
func (i info) product() string {
	if i.valkey() {
		return "Valkey " + i["valkey_version"]
	}
	return "Redis " + i["redis_version"]
}

// version is the server's own version; Valkey's redis_version says only with
// which Redis it is compatible.
func (i info) version() version {
	if i.valkey() && i["valkey_version"] != "" {
		return parseVersion(i["valkey_version"])
	}
	return parseVersion(i["redis_version"])
}

// compatible is the version whose commands the server has (Valkey: 7.2).
func (i info) compatible() version { return parseVersion(i["redis_version"]) }

type version [3]int

func parseVersion(text string) version {
	var v version
	for n, part := range strings.SplitN(text, ".", 3) {
		v[n], _ = strconv.Atoi(part)
	}
	return v
}

func (v version) before(o version) bool { return slices.Compare(v[:], o[:]) < 0 }

// keyspace is how many keys each database holds.
func (i info) keyspace() map[int]int64 {
	out := make(map[int]int64)
	for field, value := range i {
		number, ok := strings.CutPrefix(field, "db")
		db, err := strconv.Atoi(number)
		if !ok || err != nil {
			continue
		}
		out[db] = attribute(value, "keys")
	}
	return out
}

// volatileFields is how many hashes of each database have fields that expire.
func (i info) volatileFields() map[int]int64 {
	out := make(map[int]int64)
	for db := range i.keyspace() {
		list := i[fmt.Sprint("db", db)]
		out[db] = max(attribute(list, "subexpiry"), attribute(list, "keys_with_volatile_items"))
	}
	return out
}

// calls is how often each command has run, by lower-case name ("client|list").
func (i info) calls() map[string]int64 {
	out := make(map[string]int64)
	for field, value := range i {
		if name, ok := strings.CutPrefix(field, "cmdstat_"); ok {
			out[strings.ToLower(name)] = attribute(value, "calls")
		}
	}
	return out
}

// attribute finds "name=number" in a list separated by commas.
func attribute(list, name string) int64 {
	for part := range strings.SplitSeq(list, ",") {
		if left, right, ok := strings.Cut(part, "="); ok && left == name {
			n, _ := strconv.ParseInt(right, 10, 64)
			return n
		}
	}
	return 0
}

func sorted[V any](m map[int]V) []int { return slices.Sorted(maps.Keys(m)) }
