// Package tpm lets the TPM 2 of a host encrypt secrets that only this chip decrypts again.
//
// A secret becomes a sealed object below the storage primary key of the owner hierarchy (the
// ECC P-256 template of the TCG), which the chip derives anew each time from a seed that never
// leaves it. So nothing stays in the chip, no handle is taken from others, and clearing the
// chip ends every secret. Objects are bound to the chip alone and to no measurement (PCR): an
// update of firmware, boot loader or kernel must not lock a host out of its keys. So whoever
// boots another system on the same machine can open them as well as root can.
//
// Secrets cross the bus to the chip encrypted (a salted session), and a chip that does not have
// the primary key of before is told apart before anything is sent to it. The device is opened
// for each call and closed after it; the kernel's resource manager keeps users of the chip
// apart. A chip that does not answer is given up (ErrSilent): the call is lost until it does,
// and at most one is, since no other begins before: others give up at once.
package tpm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"

	"virtmesh/agent/hostseal"
)

// DefaultDevice is the TPM of a host behind the kernel's resource manager.
const DefaultDevice = "/dev/tpmrm0"

// Chip is the TPM of a host. Its methods may be called at any time from any goroutine.
type Chip struct {
	open     func() (transport.TPMCloser, error)
	patience time.Duration
	// busy holds a token while a call is under way, lost says that nobody waits for it any more.
	busy chan struct{}
	lost atomic.Bool
}

var _ hostseal.Chip = (*Chip)(nil)

// New returns the TPM behind a device. It opens nothing: whether the host has one is seen when
// the chip is needed.
func New(device string) *Chip {
	return newChip(func() (transport.TPMCloser, error) { return linuxtpm.Open(device) })
}

// patience is how long a chip may take. Chips of the slow kind take a few seconds for what is
// asked of them here.
const patience = 30 * time.Second

// ErrSilent says that the TPM does not answer.
var ErrSilent = errors.New("the TPM does not answer")

func newChip(open func() (transport.TPMCloser, error)) *Chip {
	return &Chip{open: open, patience: patience, busy: make(chan struct{}, 1)}
}

// sealed is a secret that the chip has encrypted.
type sealed struct {
	// Parent is the name, a hash, of the primary key that it is encrypted for.
	Parent []byte `json:"parent"`
	// Public and Private are the two parts of the object.
	Public  []byte `json:"public"`
	Private []byte `json:"private"`
}

// Wrap implements hostseal.Chip.
func (c *Chip) Wrap(secret []byte) ([]byte, error) {
	wrapped, err := c.use(func(chip transport.TPM, primary *tpm2.CreatePrimaryResponse) ([]byte, error) {
		salt, err := salted(primary)
		if err != nil {
			return nil, err
		}
		session := tpm2.HMAC(tpm2.TPMAlgSHA256, nonceLen, tpm2.AESEncryption(128, tpm2.EncryptInOut), salt)
		made, err := tpm2.Create{
			ParentHandle: tpm2.AuthHandle{Handle: primary.ObjectHandle, Name: primary.Name, Auth: session},
			InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
				Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret}),
			}},
			InPublic: tpm2.New2B(tpm2.TPMTPublic{
				Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
				ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, UserWithAuth: true, NoDA: true},
			}),
		}.Execute(chip)
		if err != nil {
			return nil, err
		}
		return json.Marshal(sealed{
			Parent: primary.Name.Buffer, Public: tpm2.Marshal(made.OutPublic), Private: tpm2.Marshal(made.OutPrivate),
		})
	})
	if err != nil {
		return nil, fmt.Errorf("let the TPM encrypt a key: %w", err)
	}
	return wrapped, nil
}

// Unwrap implements hostseal.Chip.
func (c *Chip) Unwrap(wrapped []byte) ([]byte, error) {
	secret, err := c.use(func(chip transport.TPM, primary *tpm2.CreatePrimaryResponse) ([]byte, error) {
		return unseal(chip, primary, wrapped)
	})
	if err != nil {
		return nil, fmt.Errorf("let the TPM decrypt a key: %w", err)
	}
	return secret, nil
}

func unseal(chip transport.TPM, primary *tpm2.CreatePrimaryResponse, wrapped []byte) (secret []byte, err error) {
	var object sealed
	if err := json.Unmarshal(wrapped, &object); err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	if !bytes.Equal(object.Parent, primary.Name.Buffer) {
		return nil, hostseal.ErrOtherChip
	}
	publicPart, err := tpm2.Unmarshal[tpm2.TPM2BPublic](object.Public)
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	privatePart, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](object.Private)
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	loaded, err := tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: primary.ObjectHandle, Name: primary.Name, Auth: tpm2.PasswordAuth(nil)},
		InPrivate:    *privatePart, InPublic: *publicPart,
	}.Execute(chip)
	if errors.Is(err, tpm2.TPMRCIntegrity) {
		return nil, fmt.Errorf("%w: %w", hostseal.ErrOtherChip, err)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, flush(chip, loaded.ObjectHandle)) }()
	salt, err := salted(primary)
	if err != nil {
		return nil, err
	}
	// The command has no parameter that could be encrypted.
	session := tpm2.HMAC(tpm2.TPMAlgSHA256, nonceLen, tpm2.AESEncryption(128, tpm2.EncryptOut), salt)
	opened, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: loaded.ObjectHandle, Name: loaded.Name, Auth: session}}.Execute(chip)
	if err != nil {
		return nil, err
	}
	return opened.OutData.Buffer, nil
}

// action is what is done with an open chip and its primary key.
type action func(transport.TPM, *tpm2.CreatePrimaryResponse) ([]byte, error)

// use opens the chip, derives the primary key, and closes both after what is done with them. It
// returns ErrSilent if that takes too long, and at once as long as a call that was given up has
// not come back.
func (c *Chip) use(do action) ([]byte, error) {
	if c.lost.Load() {
		return nil, ErrSilent
	}
	type outcome struct {
		result []byte
		err    error
	}
	timer := time.NewTimer(c.patience)
	defer timer.Stop()
	select {
	case c.busy <- struct{}{}:
	case <-timer.C:
		return nil, ErrSilent
	}
	ended := make(chan outcome, 1)
	go func() {
		result, err := c.useNow(do)
		ended <- outcome{result, err}
		c.lost.Store(false)
		<-c.busy
	}()
	select {
	case o := <-ended:
		return o.result, o.err
	case <-timer.C:
	}
	c.lost.Store(true)
	select {
	case o := <-ended: // just now, so that it may not have seen that it was given up
		c.lost.Store(false)
		return o.result, o.err
	default:
		return nil, ErrSilent
	}
}

func (c *Chip) useNow(do action) (result []byte, err error) {
	chip, err := c.open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", hostseal.ErrNoChip, err)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, chip.Close()) }()
	primary, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate),
	}.Execute(chip)
	if err != nil {
		return nil, fmt.Errorf("derive the storage key of the owner hierarchy: %w", err)
	}
	defer func() { err = errors.Join(err, flush(chip, primary.ObjectHandle)) }()
	return do(chip, primary)
}

func flush(chip transport.TPM, handle tpm2.TPMHandle) error {
	_, err := tpm2.FlushContext{FlushHandle: handle}.Execute(chip)
	return err
}

// nonceLen is the length of the nonces of a session in bytes.
const nonceLen = 16

// salted makes the key of a session one that only the chip with the primary key can derive:
// who listens on the bus does not see what is sealed or unsealed.
func salted(primary *tpm2.CreatePrimaryResponse) (tpm2.AuthOption, error) {
	public, err := primary.OutPublic.Contents()
	if err != nil {
		return nil, err
	}
	return tpm2.Salted(primary.ObjectHandle, *public), nil
}
