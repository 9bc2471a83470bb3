package value

import "fmt"

// Lacks reports whether err is a server's answer that it does not know a command, or
// does not let us run it.
func Lacks(err error) bool { return lacks(err) }

// Classify gives a refusal of the target its name: ErrRestoreRefused, ErrOutOfMemory.
// Any other error is returned as it is, without the arguments a server repeats.
func Classify(err error) error { return classify(err) }

// Syntax reports whether a server does not know an option of a command.
func Syntax(err error) bool { return says(err, "syntax error") }

// Forbids makes a server's answer that it does not know or does not permit DUMP or
// RESTORE an ErrRestoreRefused: the key can still be copied by type. Any other error
// is returned as Classify does.
func Forbids(err error) error {
	if lacks(err) {
		return fmt.Errorf("%w: %w", ErrRestoreRefused, discreet(err))
	}
	return classify(err)
}
