package interceptor

import (
	"google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Policy says which role a method needs. What has no row is refused.
type Policy map[string]storev1.Role

// Public is the row of a method that needs no token.
const Public = storev1.Role_ROLE_UNSPECIFIED

// APIPolicy is the policy of the API, one row per method.
func APIPolicy() Policy {
	const (
		viewer   = storev1.Role_ROLE_VIEWER
		composer = storev1.Role_ROLE_COMPOSER
		operator = storev1.Role_ROLE_OPERATOR
		admin    = storev1.Role_ROLE_ADMIN
	)
	return Policy{
		vmhostv1.VmHostService_GetVmHost_FullMethodName:         viewer,
		vmhostv1.VmHostService_ListVmHosts_FullMethodName:       viewer,
		vmhostv1.VmHostService_CreateVmHost_FullMethodName:      operator,
		vmhostv1.VmHostService_UpdateVmHost_FullMethodName:      operator,
		vmhostv1.VmHostService_DeleteVmHost_FullMethodName:      operator,
		vmhostv1.VmHostService_RefreshVmHost_FullMethodName:     operator,
		vmhostv1.VmHostService_CordonVmHost_FullMethodName:      operator,
		vmhostv1.VmHostService_UncordonVmHost_FullMethodName:    operator,
		vmhostv1.VmHostService_CheckVmHost_FullMethodName:       operator,
		vmhostv1.VmHostService_RemoveVmHost_FullMethodName:      operator,
		vmhostv1.VmHostService_DrainVmHost_FullMethodName:       operator,
		vmhostv1.VmHostService_AddClusterMembers_FullMethodName: operator,

		vmhostv1.MachineService_GetMachine_FullMethodName:        viewer,
		vmhostv1.MachineService_ListMachines_FullMethodName:      viewer,
		vmhostv1.MachineService_ComposeMachine_FullMethodName:    composer,
		vmhostv1.MachineService_ComposeMachines_FullMethodName:   composer,
		vmhostv1.MachineService_DeleteMachine_FullMethodName:     composer,
		vmhostv1.MachineService_StartMachine_FullMethodName:      composer,
		vmhostv1.MachineService_StopMachine_FullMethodName:       composer,
		vmhostv1.MachineService_ResetMachine_FullMethodName:      composer,
		vmhostv1.MachineService_QueryMachinePower_FullMethodName: composer,
		vmhostv1.MachineService_CycleMachine_FullMethodName:      composer,
		vmhostv1.MachineService_PauseMachine_FullMethodName:      composer,
		vmhostv1.MachineService_ResumeMachine_FullMethodName:     composer,
		vmhostv1.MachineService_BatchChangePower_FullMethodName:  composer,
		vmhostv1.MachineService_ReadConsoleLog_FullMethodName:    composer,
		vmhostv1.MachineService_AttachConsole_FullMethodName:     composer,
		vmhostv1.MachineService_MoveMachine_FullMethodName:       operator,
		vmhostv1.MachineService_AdoptMachine_FullMethodName:      operator,
		vmhostv1.MachineService_ReleaseMachine_FullMethodName:    operator,

		vmhostv1.OperationService_GetOperation_FullMethodName:    viewer,
		vmhostv1.OperationService_ListOperations_FullMethodName:  viewer,
		vmhostv1.OperationService_WaitOperation_FullMethodName:   viewer,
		vmhostv1.OperationService_CancelOperation_FullMethodName: composer,

		vmhostv1.ZoneService_GetZone_FullMethodName:    viewer,
		vmhostv1.ZoneService_ListZones_FullMethodName:  viewer,
		vmhostv1.ZoneService_CreateZone_FullMethodName: operator,
		vmhostv1.ZoneService_UpdateZone_FullMethodName: operator,
		vmhostv1.ZoneService_DeleteZone_FullMethodName: operator,

		vmhostv1.ResourcePoolService_GetResourcePool_FullMethodName:    viewer,
		vmhostv1.ResourcePoolService_ListResourcePools_FullMethodName:  viewer,
		vmhostv1.ResourcePoolService_CreateResourcePool_FullMethodName: operator,
		vmhostv1.ResourcePoolService_UpdateResourcePool_FullMethodName: operator,
		vmhostv1.ResourcePoolService_DeleteResourcePool_FullMethodName: operator,

		vmhostv1.PlacementService_Explain_FullMethodName:   viewer,
		vmhostv1.PlacementService_Capacity_FullMethodName:  viewer,
		vmhostv1.PlacementService_WhatIf_FullMethodName:    viewer,
		vmhostv1.PlacementService_Rebalance_FullMethodName: viewer,

		vmhostv1.PlacementPolicyService_GetPlacementPolicy_FullMethodName:    viewer,
		vmhostv1.PlacementPolicyService_ListPlacementPolicies_FullMethodName: viewer,
		vmhostv1.PlacementPolicyService_CreatePlacementPolicy_FullMethodName: operator,
		vmhostv1.PlacementPolicyService_UpdatePlacementPolicy_FullMethodName: operator,
		vmhostv1.PlacementPolicyService_DeletePlacementPolicy_FullMethodName: operator,

		vmhostv1.ReservationService_GetReservation_FullMethodName:    viewer,
		vmhostv1.ReservationService_ListReservations_FullMethodName:  viewer,
		vmhostv1.ReservationService_Reserve_FullMethodName:           composer,
		vmhostv1.ReservationService_UpdateReservation_FullMethodName: composer,
		vmhostv1.ReservationService_DeleteReservation_FullMethodName: composer,

		vmhostv1.RackService_GetRack_FullMethodName:         viewer,
		vmhostv1.RackService_ListRacks_FullMethodName:       viewer,
		vmhostv1.RackService_CreateJoinToken_FullMethodName: admin,
		vmhostv1.RackService_ListJoinTokens_FullMethodName:  admin,
		vmhostv1.RackService_DeleteJoinToken_FullMethodName: admin,
		vmhostv1.RackService_DeleteRack_FullMethodName:      admin,

		vmhostv1.EventService_ListEvents_FullMethodName:  viewer,
		vmhostv1.EventService_WatchEvents_FullMethodName: viewer,

		grpc_health_v1.Health_Check_FullMethodName: Public,
		grpc_health_v1.Health_List_FullMethodName:  Public,
		grpc_health_v1.Health_Watch_FullMethodName: Public,

		reflectionv1.ServerReflection_ServerReflectionInfo_FullMethodName:      viewer,
		reflectionv1alpha.ServerReflection_ServerReflectionInfo_FullMethodName: viewer,
	}
}
