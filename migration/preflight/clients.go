package preflight

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ownUser is the ACL user that a migration creates.
const ownUser = "crossfade"

// bypassing is a connection to From that does not go through the proxy.
type bypassing struct{ addr, name, user, lib, age string }

func (b bypassing) String() string {
	var w strings.Builder
	w.WriteString(b.addr)
	if b.name != "" {
		w.WriteString(" name " + quoted(b.name))
	}
	if b.user != "" {
		w.WriteString(" user " + quoted(b.user))
	}
	if b.lib != "" {
		w.WriteString(" library " + quoted(b.lib))
	}
	return w.String() + " for " + b.age + " s"
}

// watches reports whether it is a sentinel's.
func (b bypassing) watches() bool { return strings.HasPrefix(b.name, "sentinel-") }

// IsProxied reports whether a connection that a server lists with this id and address is one
// of those in proxied, which has each as Env.Proxied does.
func IsProxied(proxied map[string]struct{}, id, addr string) bool {
	_, byAddress := proxied[addr]
	_, byID := proxied["id="+id]
	return byAddress || byID
}

// bypasses lists the connections to From that are neither ours, nor the proxy's,
// nor replication's.
func bypasses(ctx context.Context, env Env) ([]bypassing, error) {
	text, err := env.From.DB(0).ClientList(ctx).Result()
	if err != nil {
		return nil, fmt.Errorf("CLIENT LIST: %w", err)
	}
	var out []bypassing
	for line := range strings.Lines(text) {
		f := fields(line)
		proxied := IsProxied(env.Proxied, f["id"], f["addr"])
		// A user that the operator gave may be the applications' too; the one that
		// we made is ours alone.
		own := strings.HasPrefix(f["name"], ours) || env.User == ownUser && f["user"] == ownUser
		if f["addr"] == "" || proxied || own || strings.ContainsAny(f["flags"], "SM") {
			continue
		}
		out = append(out, bypassing{addr: f["addr"], name: f["name"], user: f["user"], lib: f["lib-name"], age: f["age"]})
	}
	return out, nil
}

// Bypassing names the clients that are connected to From past the proxy.
func Bypassing(ctx context.Context, env Env) ([]string, error) {
	list, err := bypasses(ctx, env)
	out := make([]string, 0, len(list))
	for _, b := range list {
		out = append(out, b.String())
	}
	return out, err
}

// Strays names those who are connected to From past the proxy, and those whom its fence has
// refused within a time and who have gone since: at most ten kinds of them. Sentinels are none.
func Strays(ctx context.Context, env Env, within time.Duration) ([]string, error) {
	list, err := bypasses(ctx, env)
	if err != nil {
		return nil, err
	}
	list = append(list, refusedLately(ctx, env, within, list)...)
	return kinds(slices.DeleteFunc(list, bypassing.watches)), nil
}

// refusedLately reads out of ACL LOG who was refused a command, of those who are not
// connected any more; nobody where that is not to be had.
func refusedLately(ctx context.Context, env Env, within time.Duration, connected []bypassing) []bypassing {
	entries, _ := env.From.DB(0).Do(ctx, "ACL", "LOG", 50).Slice()
	var out []bypassing
	for _, one := range entries {
		list, _ := one.([]any)
		e := make(map[string]string)
		for i := 0; i+1 < len(list); i += 2 {
			e[fmt.Sprint(list[i])] = fmt.Sprint(list[i+1])
		}
		age, err := strconv.ParseFloat(e["age-seconds"], 64)
		if err != nil || e["reason"] != "command" || age > within.Seconds() {
			continue
		}
		f := fields(e["client-info"])
		proxied := IsProxied(env.Proxied, f["id"], f["addr"])
		there := slices.ContainsFunc(connected, func(b bypassing) bool { return b.addr == f["addr"] })
		if f["addr"] == "" || proxied || there || strings.HasPrefix(f["name"], ours) {
			continue
		}
		out = append(out, bypassing{addr: f["addr"], name: f["name"], user: e["username"], lib: f["lib-name"], age: f["age"]})
	}
	return out
}

func fields(line string) map[string]string {
	out := make(map[string]string)
	for field := range strings.FieldsSeq(line) {
		if name, value, ok := strings.Cut(field, "="); ok {
			out[name] = value
		}
	}
	return out
}

// checkClients lists who is connected to From past the proxy. The fence refuses
// their writes after the switch; they do not move by themselves.
func checkClients(ctx context.Context, in *inspection) []Finding {
	list, err := bypasses(ctx, in.Env)
	if err != nil {
		return one(unknown(in.from, "looking who is connected", err))
	}
	if len(list) == 0 {
		return one(pass("%s: nobody is connected past the proxy", in.from))
	}
	return one(warn("Point them at the proxy before the switch: afterwards the fence refuses them.",
		"%s: %s past the proxy: %s", in.from, plural(int64(len(list)), "client is connected", "clients are connected"), grouped(list)))
}

// grouped shows kinds in one line.
func grouped(list []bypassing) string { return strings.Join(kinds(list), "; ") }

// kinds shows at most ten kinds: the connections of one pool are one.
func kinds(list []bypassing) []string {
	const most = 10
	groups := make(map[bypassing][]bypassing)
	var order []bypassing
	for _, b := range list {
		kind := b
		kind.age = ""
		if host, _, err := net.SplitHostPort(b.addr); err == nil {
			kind.addr = host
		}
		if groups[kind] == nil {
			order = append(order, kind)
		}
		groups[kind] = append(groups[kind], b)
	}
	lines := []string{}
	for i, kind := range order {
		if i == most {
			lines = append(lines, fmt.Sprintf("and %d more kinds", len(order)-most))
			break
		}
		shown := groups[kind][0] // the oldest: the list is by age
		line := shown.String()
		if n := len(groups[kind]); n > 1 {
			line += fmt.Sprintf(" and %d more from there", n-1)
		}
		lines = append(lines, line)
	}
	return lines
}
