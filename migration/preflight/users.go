package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// checkUsers looks for ACL users of From that To does not have: who logs in as one of them
// would be refused there. A server without ACL has none.
func checkUsers(ctx context.Context, in *inspection) []Finding {
	here, err := in.from.client().Do(ctx, "ACL", "USERS").StringSlice()
	if err != nil {
		return nil // permissions says what is forbidden
	}
	there, err := in.to.client().Do(ctx, "ACL", "USERS").StringSlice()
	if err != nil {
		return nil
	}
	me := whoami(ctx, in.from)
	var absent []string
	for _, name := range here {
		if name != "default" && name != ownUser && name != me && !slices.Contains(there, name) {
			absent = append(absent, quoted(name))
		}
	}
	if len(absent) == 0 {
		return nil
	}
	slices.Sort(absent)
	const most = 10
	names := strings.Join(absent[:min(len(absent), most)], ", ")
	if len(absent) > most {
		names += ", …"
	}
	do := fmt.Sprintf("Unless clients are other users there (proxy.credentials), make them on the %s.", in.ToName)
	if !in.back() {
		do += " To copy them: crossfade acl plan, then acl apply, with the same --source, --target and --map."
	}
	return one(warn(do, "%s does not have %s of the %s: %s; clients who log in as such a user are refused there", in.to, plural(int64(len(absent)), "ACL user", "ACL users"), in.FromName, names))
}
