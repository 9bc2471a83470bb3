package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/failpoint"
)

// unserved refuses what can be copied and compared but not served yet: the proxy does not
// add prefixes to keys, so after the switch clients would find none of theirs.
func unserved(c config.Config) error {
	if failpoint.On("run.prefixes") { // for tests of all but the proxy
		return nil
	}
	var errs []error
	for _, db := range slices.Sorted(maps.Keys(c.Databases)) {
		if c.Databases[db].Prefix != "" {
			errs = append(errs, fmt.Errorf("databases: %d=%s: clients cannot be served with prefixes yet, so run takes none; check and verify do", db, c.Databases[db]))
		}
	}
	return errors.Join(errs...)
}
