//go:build !unix

package keys

import "os"

// keepOwner does nothing: files have no Unix owners here.
func keepOwner(*os.File, string) error { return nil }
