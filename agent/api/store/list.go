package store

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"virtmesh/agent/sealed"
	"virtmesh/raftstore"
)

// maxPage bounds one read of a paged list with a selector. The reads of such a list
// grow up to it while the selector drops most records.
const maxPage = 10000

// GetList implements storage.Interface.
func (s *Store) GetList(ctx context.Context, key string, opts storage.ListOptions, listObj runtime.Object) error {
	prefix, err := storage.PrepareKey(s.prefix+"/", key, opts.Recursive)
	if err != nil {
		return err
	}
	items, err := itemsOf(listObj)
	if err != nil {
		return err
	}
	if l, ok := listObj.(*UndecodedList); ok {
		l.turn = &turn{of: s.turns, ctx: ctx}
	}
	if !opts.Recursive {
		return s.listOne(ctx, prefix, opts, listObj, items)
	}
	return s.listPrefix(ctx, prefix, opts, listObj, items)
}

// itemsOf returns the slice of the items of a list.
func itemsOf(listObj runtime.Object) (reflect.Value, error) {
	ptr, err := meta.GetItemsPtr(listObj)
	if err != nil {
		return reflect.Value{}, err
	}
	items, err := conversion.EnforcePtr(ptr)
	if err != nil || items.Kind() != reflect.Slice {
		return reflect.Value{}, fmt.Errorf("list into %T: need a pointer to a slice", listObj)
	}
	return items, nil
}

// listOne lists the one object at key, if it exists and is selected.
func (s *Store) listOne(ctx context.Context, key string, opts storage.ListOptions, listObj runtime.Object, items reflect.Value) error {
	exact, _, err := storage.ValidateListOptions(key, s.versioner, opts)
	if err != nil {
		return err
	}
	ro, err := s.readOptions(opts.ResourceVersion)
	if err != nil {
		return err
	}
	// Listing with the key as prefix can read exact revisions too; keys that only begin
	// with it are dropped.
	res, err := s.listRecords(ctx, raftstore.ListRequest{Prefix: key, Limit: 1, Revision: uint64(exact), ReadOptions: ro})
	if err != nil {
		return s.readError(err, max(ro.MinRevision, uint64(exact)), s.backend.Revision())
	}
	p := newPage(s, listObj, items, opts)
	if len(res.Records) == 1 && res.Records[0].Key == key {
		if err := p.addRecord(ctx, res.Records[0]); err != nil {
			return err
		}
	}
	return p.finishList(listObj, res.Revision, "", nil)
}

func (s *Store) listPrefix(ctx context.Context, prefix string, opts storage.ListOptions, listObj runtime.Object, items reflect.Value) error {
	exact, continueKey, err := storage.ValidateListOptions(prefix, s.versioner, opts)
	if err != nil {
		return err
	}
	req := raftstore.ListRequest{
		Prefix:   prefix,
		Compact:  true,
		After:    startAfter(continueKey),
		Limit:    int(opts.Predicate.Limit),
		Revision: uint64(exact),
	}
	if req.ReadOptions, err = s.readOptions(opts.ResourceVersion); err != nil {
		return err
	}
	p := newPage(s, listObj, items, opts)
	var last string
	var count int64
	more := true
	for more && !p.isFull() {
		res, err := s.listRecords(ctx, req)
		if err != nil {
			if errors.Is(err, raftstore.ErrCompacted) && opts.Predicate.Continue != "" {
				return expiredContinue(continueKey, prefix)
			}
			return s.readError(err, max(req.MinRevision, req.Revision), s.backend.Revision())
		}
		// Later pages of this list are read at the revision of the first.
		if req.Revision == 0 {
			req.Revision = res.Revision
		}
		req.ReadOptions = raftstore.ReadOptions{Consistency: raftstore.Local}
		count = int64(len(res.Records)) + res.Remaining
		used, err := p.addAll(ctx, res.Records)
		if err != nil {
			return err
		}
		if used > 0 {
			last = res.Records[used-1].Key
		}
		more = res.More || used < len(res.Records)
		req.After, req.Limit = last, min(2*req.Limit, maxPage)
	}
	token, remaining, err := storage.PrepareContinueToken(last, prefix, int64(req.Revision), count, more, opts)
	if err != nil {
		return err
	}
	return p.finishList(listObj, req.Revision, token, remaining)
}

// startAfter converts a start key, included, to the key after which a list continues.
// Tokens that this package makes start right after a key. A token that names a key
// itself must start with that key, and so after every key that sorts before it.
func startAfter(start string) string {
	if start == "" {
		return ""
	}
	if key, ok := strings.CutSuffix(start, "\x00"); ok {
		return key
	}
	last := len(start) - 1
	return start[:last] + string([]byte{start[last] - 1, 0xff})
}

// page collects the selected objects of a list.
type page struct {
	store *Store
	items reflect.Value
	// undecoded is the list if it takes objects as they are stored.
	undecoded *UndecodedList
	pred      storage.SelectionPredicate
	newItem   func() runtime.Object
	// sealable is whether objects of the kind can be encrypted in the store.
	sealable bool
}

func newPage(s *Store, listObj runtime.Object, items reflect.Value, opts storage.ListOptions) *page {
	p := &page{store: s, items: items, pred: opts.Predicate, newItem: s.newFunc}
	p.sealable = s.sealable()
	if l, ok := listObj.(*UndecodedList); ok {
		p.undecoded = l
	} else {
		p.newItem = itemFunc(listObj, items)
	}
	return p
}

func (p *page) isFull() bool {
	return p.pred.Limit > 0 && int64(p.items.Len()) >= p.pred.Limit
}

// addAll adds records until the page is full and returns how many it processed.
func (p *page) addAll(ctx context.Context, recs []raftstore.Record) (int, error) {
	if p.pred.Empty() {
		p.items.Grow(len(recs))
	}
	for i, rec := range recs {
		if p.isFull() {
			return i, nil
		}
		if err := p.addRecord(ctx, rec); err != nil {
			return i, err
		}
	}
	return len(recs), nil
}

func (p *page) addRecord(ctx context.Context, rec raftstore.Record) error {
	if ctx.Err() != nil {
		return storage.NewTimeoutError(rec.Key, "the list did not finish in time")
	}
	if p.sealable && sealed.IsSealed(rec.Expand().Value) {
		if p.store.leavesUnopened {
			return nil
		}
		return fmt.Errorf("list %s: %w", rec.Key, errUnopened(rec))
	}
	if p.undecoded != nil {
		return p.addUndecoded(rec)
	}
	obj := p.newItem()
	if err := p.store.decodeObject(rec.Expand().Value, obj, rec.ModRevision); err != nil {
		return fmt.Errorf("list %s: %w", rec.Key, err)
	}
	if ok, err := p.pred.Matches(obj); err == nil && ok {
		p.items.Set(reflect.Append(p.items, reflect.ValueOf(obj).Elem()))
	}
	return nil
}

// addUndecoded adds an object as it is stored. What must be decoded to be matched is not
// kept decoded: there may be very many.
func (p *page) addUndecoded(rec raftstore.Record) error {
	ok, err := matchUndecoded(&p.pred, &Undecoded{store: p.undecoded.store, rec: rec})
	if err != nil {
		return fmt.Errorf("list %s: %w", rec.Key, err)
	}
	if ok {
		p.undecoded.appendItem(rec)
	}
	return nil
}

// matchUndecoded reports whether a selector matches an object. It fails only if the object
// cannot be decoded.
func matchUndecoded(pred *storage.SelectionPredicate, o *Undecoded) (bool, error) {
	if pred.Empty() {
		return true, nil
	}
	ok, err := pred.Matches(o)
	if err != nil {
		_, err = o.decode()
		return false, err
	}
	return ok, nil
}

func (p *page) finishList(listObj runtime.Object, rev uint64, token string, remaining *int64) error {
	if p.items.IsNil() {
		// Without items, encode an empty array and never null.
		p.items.Set(reflect.MakeSlice(p.items.Type(), 0, 0))
	}
	return p.store.versioner.UpdateList(listObj, rev, token, remaining)
}

// itemFunc returns the function that makes an item of listObj.
func itemFunc(listObj runtime.Object, items reflect.Value) func() runtime.Object {
	if ul, ok := listObj.(*unstructured.UnstructuredList); ok {
		return func() runtime.Object {
			u := &unstructured.Unstructured{}
			u.SetAPIVersion(ul.GetAPIVersion())
			return u
		}
	}
	elem := items.Type().Elem()
	return func() runtime.Object { return reflect.New(elem).Interface().(runtime.Object) }
}
