package main

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"virtmesh/raftstore"
)

// kvServer serves what the load needs of etcd's protocol: puts and linearizable
// gets of single keys.
type kvServer struct {
	etcdserverpb.UnimplementedKVServer
	store *raftstore.Store
}

var _ etcdserverpb.KVServer = (*kvServer)(nil)

// Put implements etcdserverpb.KVServer.
func (s *kvServer) Put(ctx context.Context, r *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	result, err := s.store.Commit(ctx, raftstore.Txn{Ops: []raftstore.Op{{Key: string(r.Key), Value: r.Value}}})
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.PutResponse{Header: &etcdserverpb.ResponseHeader{Revision: int64(result.Revision)}}, nil
}

// Range implements etcdserverpb.KVServer.
func (s *kvServer) Range(ctx context.Context, r *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	record, revision, err := s.store.Get(ctx, string(r.Key), raftstore.ReadOptions{})
	if err != nil && !errors.Is(err, raftstore.ErrNotFound) {
		return nil, err
	}
	answer := &etcdserverpb.RangeResponse{Header: &etcdserverpb.ResponseHeader{Revision: int64(revision)}}
	if err == nil {
		answer.Count = 1
		answer.Kvs = []*mvccpb.KeyValue{{
			Key: r.Key, Value: record.Value,
			CreateRevision: int64(record.CreateRevision), ModRevision: int64(record.ModRevision),
		}}
	}
	return answer, nil
}

// statusServer says who leads, once every member votes.
type statusServer struct {
	etcdserverpb.UnimplementedMaintenanceServer
	store *raftstore.Store
	index int
}

var _ etcdserverpb.MaintenanceServer = (*statusServer)(nil)

// Status implements etcdserverpb.MaintenanceServer. Members are numbered from 1.
func (s *statusServer) Status(ctx context.Context, _ *etcdserverpb.StatusRequest) (*etcdserverpb.StatusResponse, error) {
	status := s.store.Status(ctx)
	answer := &etcdserverpb.StatusResponse{Header: &etcdserverpb.ResponseHeader{MemberId: uint64(s.index + 1)}}
	if len(status.Voters) == members {
		for i := range members {
			if status.Leader == memberName(i) {
				answer.Leader = uint64(i + 1)
			}
		}
	}
	return answer, nil
}
