package preflight

import "context"

// checkEviction looks whether a server throws keys away by itself.
func checkEviction(_ context.Context, in *inspection) []Finding {
	var out []Finding
	if policy := evicting(in.from.info); policy != "" {
		out = append(out, warn("Nothing has to be done, if this is a cache.",
			"%s evicts keys (maxmemory-policy %s, maxmemory %s, %d evicted so far): an evicted key is removed on the %s too",
			in.from, policy, size(in.from.info.number("maxmemory")), in.from.info.number("evicted_keys"), in.ToName))
	}
	for _, s := range in.to.masters() {
		policy := evicting(s.info)
		if policy == "" {
			continue
		}
		r := headroom(in, s)
		do := "If no key may be lost:\n" + s.redisCLI() + " CONFIG SET maxmemory-policy noeviction"
		switch {
		case r.short():
			out = append(out, fail(do+"\nand give it more memory (see memory).",
				"%s evicts keys (maxmemory-policy %s) and has %s free where %s are needed: it would throw away part of the copy", s, policy, size(r.free), size(r.need)))
		case r.tight():
			out = append(out, warn(do, "%s evicts keys (maxmemory-policy %s) and its memory is tight: keys may vanish there", s, policy))
		}
	}
	if len(out) == 0 {
		out = one(pass("no keys are evicted: %s %s, %s %s", in.FromName, policyOf(in.from.info), in.ToName, policyOf(in.to.info)))
	}
	return out
}

// evicting returns the policy, or "" when nothing is ever evicted.
func evicting(i info) string {
	if policy := i["maxmemory_policy"]; policy != "noeviction" && policy != "" && i.number("maxmemory") > 0 {
		return policy
	}
	return ""
}

func policyOf(i info) string {
	policy := i["maxmemory_policy"]
	if policy == "" {
		return "(not shown)"
	}
	if i.number("maxmemory") == 0 {
		return policy + " without maxmemory"
	}
	return policy + " with maxmemory " + size(i.number("maxmemory"))
}
