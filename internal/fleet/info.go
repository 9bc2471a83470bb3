package fleet

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/crossfade/crossfade/internal/resp"
)

// summed are the fields of INFO that are added up over all masters.
var summed = func() map[string]bool {
	m := make(map[string]bool)
	for name := range strings.FieldsSeq(`
		used_memory used_memory_rss used_memory_peak used_memory_overhead used_memory_startup used_memory_dataset maxmemory
		used_memory_lua used_memory_vm_eval used_memory_scripts_eval used_memory_functions used_memory_vm_functions
		used_memory_vm_total used_memory_scripts mem_clients_slaves mem_clients_normal number_of_cached_scripts number_of_functions
		number_of_libraries rdb_changes_since_last_save total_commands_processed instantaneous_ops_per_sec total_net_input_bytes
		total_net_output_bytes expired_keys evicted_keys evicted_clients total_eviction_exceeded_time keyspace_hits keyspace_misses
		total_error_replies total_reads_processed total_writes_processed unexpected_error_replies acl_access_denied_auth
		acl_access_denied_cmd acl_access_denied_key acl_access_denied_channel`) {
		m[name] = true
	}
	return m
}()

// said are the fields of INFO that a standalone master says otherwise.
var said = map[string]string{"redis_mode": "standalone", "server_mode": "standalone", "cluster_enabled": "0", "role": "master"}

// humans are fields that say another one in words for people.
var humans = map[string]string{
	"used_memory_human": "used_memory", "used_memory_rss_human": "used_memory_rss", "used_memory_peak_human": "used_memory_peak",
	"maxmemory_human": "maxmemory", "used_memory_vm_total_human": "used_memory_vm_total", "used_memory_lua_human": "used_memory_lua",
	"used_memory_scripts_human": "used_memory_scripts",
}

// info is the home's INFO, with what can be said of all masters together.
func (c *conn) info(_ [][]byte, raw []byte) bool {
	if !c.drain() {
		return false
	}
	c.view = c.f.topo.Map()
	var texts []string
	var shape []byte // of the home's reply
	home := c.homeIn(c.view)
	for _, address := range masters(c.view) {
		cl := &call{raw: bytes.Clone(raw), slot: -1, at: address, reads: true, lone: true}
		reply, err := c.perform(c.ctx, cl, c.f.until(address))
		if err != nil {
			return false
		}
		if resp.IsError(reply) {
			return c.local(reply)
		}
		text, _, ok := resp.Text(reply)
		if !ok {
			return c.local(reply)
		}
		texts = append(texts, string(text))
		if address == home || shape == nil {
			shape = reply
			texts[0], texts[len(texts)-1] = texts[len(texts)-1], texts[0]
		}
	}
	if shape == nil {
		return c.local(errorOf(downText))
	}
	text := together(texts)
	return c.local(append(append(header(nil, shape[0], len(text)), text...), "\r\n"...))
}

// together makes one INFO of several; the first is that of the server that is to be seen.
func together(texts []string) string {
	sums := make(map[string]int64)
	var keys, expires, ttls int64
	for _, text := range texts {
		for line := range strings.Lines(text) {
			name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
			switch {
			case !ok:
			case name == "db0":
				k, e, t := keyspaceOf(value)
				keys, expires, ttls = keys+k, expires+e, ttls+t*e
			case summed[name]:
				n, _ := strconv.ParseInt(value, 10, 64)
				sums[name] += n
			}
		}
	}
	var b strings.Builder
	for line := range strings.Lines(texts[0]) {
		bare := strings.TrimRight(line, "\r\n")
		name, value, ok := strings.Cut(bare, ":")
		of := humans[name]
		switch {
		case bare == "# Keyspace":
			b.WriteString(line)
			if keys > 0 {
				fmt.Fprintf(&b, "db0:keys=%d,expires=%d,avg_ttl=%d\r\n", keys, expires, ttls/max(1, expires))
			}
			continue
		case !ok, name == "db0":
			if name == "db0" {
				continue
			}
			b.WriteString(line)
			continue
		case summed[name]:
			value = strconv.FormatInt(sums[name], 10)
		case of != "":
			if sum, has := sums[of]; has {
				value = human(sum)
			}
		case said[name] != "":
			value = said[name]
		case name == "connected_slaves":
			value = "0"
		case strings.HasPrefix(name, "slave") && strings.Contains(value, "ip="):
			continue
		}
		b.WriteString(name + ":" + value + "\r\n")
	}
	return b.String()
}

func keyspaceOf(value string) (keys, expires, ttl int64) {
	for field := range strings.SplitSeq(value, ",") {
		name, text, _ := strings.Cut(field, "=")
		n, _ := strconv.ParseInt(text, 10, 64)
		switch name {
		case "keys":
			keys = n
		case "expires":
			expires = n
		case "avg_ttl":
			ttl = n
		}
	}
	return keys, expires, ttl
}

// human writes a number of bytes as servers do.
func human(n int64) string {
	v := float64(n)
	for _, unit := range []string{"B", "K", "M", "G", "T"} {
		if v < 1024 || unit == "T" {
			if unit == "B" {
				return strconv.FormatInt(n, 10) + "B"
			}
			return strconv.FormatFloat(v, 'f', 2, 64) + unit
		}
		v /= 1024
	}
	return ""
}
