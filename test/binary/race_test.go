//go:build race

package binary_test

// The binary is built as the tests are, so that its own races fail them.
func init() { buildFlags = append(buildFlags, "-race") }
