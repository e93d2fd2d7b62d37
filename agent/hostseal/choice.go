package hostseal

import (
	"errors"
	"fmt"
)

// Choice is with what an administrator wants files sealed.
type Choice string

// The choices. The empty one stands for Auto.
const (
	// Auto is the TPM if the host has one that works, else a file.
	Auto Choice = "auto"
	// WithTPM is the TPM and nothing else: without one, nothing is sealed or written.
	WithTPM Choice = "tpm"
	// WithFile is a file of root's, also where the host has a TPM.
	WithFile Choice = "file"
)

// Validate returns an error if there is no such choice.
func (c Choice) Validate() error {
	switch c {
	case "", Auto, WithTPM, WithFile:
		return nil
	}
	return fmt.Errorf("%q is not one of %q, %q and %q", string(c), Auto, WithTPM, WithFile)
}

// Kind is what protects a sealing key.
type Kind string

// The kinds of sealing keys.
const (
	// Unsealed: there is no sealing key, files are in clear.
	Unsealed Kind = ""
	// KindTPM: only the TPM of the host can decrypt the key.
	KindTPM Kind = "tpm"
	// KindFile: the key is in a file of root's.
	KindFile Kind = "file"
)

// Chip is the TPM of a host. Its methods may take seconds.
type Chip interface {
	// Wrap returns a secret of at most 128 bytes encrypted, so that only this chip decrypts it.
	Wrap(secret []byte) ([]byte, error)
	// Unwrap decrypts what Wrap returned. The error wraps ErrNoChip or ErrOtherChip where one
	// of them says why not.
	Unwrap(wrapped []byte) ([]byte, error)
}

var (
	// ErrNoChip is returned where a TPM is needed and the host has none.
	ErrNoChip = errors.New("this host has no TPM 2")
	// ErrOtherChip is returned for a key that another TPM has encrypted, or this one before it
	// was cleared.
	ErrOtherChip = errors.New("it was sealed by another TPM, or by this one before it was cleared")
	// ErrShut is returned for a sealed file whose key the host cannot open.
	ErrShut = errors.New("this host cannot open")
)

// chipError is what a TPM said when it was asked for a key.
type chipError struct{ err error }

func (e *chipError) Error() string { return e.err.Error() }
func (e *chipError) Unwrap() error { return e.err }

// MayPass reports whether what keeps a host from opening a key may be over later, without
// anybody's help: its TPM is not there, is busy or does not answer. A key that another TPM has
// encrypted stays shut.
func MayPass(err error) bool {
	var chip *chipError
	return errors.Is(err, ErrNoChip) || errors.As(err, &chip) && !errors.Is(err, ErrOtherChip)
}
