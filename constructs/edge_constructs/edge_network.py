"""The edge server's network: a way out, no way in."""

from aws_cdk import RemovalPolicy, Tags
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_logs as logs
from constructs import Construct

from edge_constructs.acknowledgement import acknowledge
from edge_constructs.permission import Permission
from edge_constructs.service_role import ServiceRole

#: What a core device opens connections to: AWS APIs and S3, IoT Core, the Greengrass data plane.
_EGRESS_PORTS = {"https": 443, "mqtt": 8883, "greengrass": 8443}
_VPC_FINDINGS = {
    "NIST.800.53.R5-VPCDefaultSecurityGroupClosed": "nothing uses the default group: the server has one of its own",
}
_WITHOUT_FLOW_LOGS = {
    "VPC7": "network.flow_logs is off for this stage: its cloud cannot deploy flow logs (the twin)",
    "NIST.800.53.R5-VPCFlowLogsEnabled": "network.flow_logs is off for this stage: the twin cannot deploy flow logs",
}
_ROUTE_FINDINGS = {
    "NIST.800.53.R5-VPCNoUnrestrictedRouteToIGW": "a core device calls AWS from behind a group without inbound rules; "
    "NAT costs more than the server",
}
_FLOW_LOG_FINDINGS = {
    "NIST.800.53.R5-CloudWatchLogGroupEncrypted": "the log holds addresses and ports; CloudWatch encrypts it with a "
    "key of its own",
}


class EdgeNetwork(Construct):
    """A VPC with one public subnet and a security group without ingress; an address costs less than a NAT gateway.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        name: Shown in the console.
        cidr: IPv4 range, all of it the subnet's.
        flow_logs: Whether all traffic is logged.
    """

    def __init__(self, scope: Construct, construct_id: str, *, name: str, cidr: str, flow_logs: bool) -> None:
        super().__init__(scope, construct_id)
        vpc = ec2.CfnVPC(self, "Vpc", cidr_block=cidr, enable_dns_support=True, enable_dns_hostnames=True)
        subnet = ec2.CfnSubnet(
            self,
            "Subnet",
            vpc_id=vpc.ref,
            cidr_block=cidr,
            map_public_ip_on_launch=False,  # the instance asks for its address itself
        )
        self._open_way_out(vpc, subnet)
        self.security_group_id = self._security_group(vpc)
        self.subnet_id = subnet.ref
        Tags.of(self).add("Name", name)
        acknowledge(vpc, _VPC_FINDINGS if flow_logs else {**_VPC_FINDINGS, **_WITHOUT_FLOW_LOGS})
        if flow_logs:
            self._log_flows(vpc)

    def _open_way_out(self, vpc: ec2.CfnVPC, subnet: ec2.CfnSubnet) -> None:
        gateway = ec2.CfnInternetGateway(self, "Gateway")
        attachment = ec2.CfnVPCGatewayAttachment(
            self, "GatewayAttachment", vpc_id=vpc.ref, internet_gateway_id=gateway.ref
        )
        table = ec2.CfnRouteTable(self, "RouteTable", vpc_id=vpc.ref)
        self.route = ec2.CfnRoute(
            self,
            "DefaultRoute",
            route_table_id=table.ref,
            destination_cidr_block="0.0.0.0/0",
            gateway_id=gateway.ref,
        )
        acknowledge(self.route, _ROUTE_FINDINGS)
        self.route.add_resource_dependency(attachment)
        self.route_association = ec2.CfnSubnetRouteTableAssociation(
            self, "RouteTableAssociation", route_table_id=table.ref, subnet_id=subnet.ref
        )

    def _security_group(self, vpc: ec2.CfnVPC) -> str:
        group = ec2.CfnSecurityGroup(
            self,
            "SecurityGroup",
            group_description="Edge server: no ingress, egress to AWS",
            vpc_id=vpc.ref,
            security_group_egress=[
                ec2.CfnSecurityGroup.EgressProperty(
                    ip_protocol="tcp", from_port=port, to_port=port, cidr_ip="0.0.0.0/0", description=use
                )
                for use, port in _EGRESS_PORTS.items()
            ],
        )
        return group.attr_group_id

    def _log_flows(self, vpc: ec2.CfnVPC) -> None:
        log_group = logs.CfnLogGroup(self, "FlowLog", retention_in_days=30)
        log_group.apply_removal_policy(RemovalPolicy.DESTROY)
        acknowledge(log_group, _FLOW_LOG_FINDINGS)
        role = ServiceRole(
            self,
            "FlowLogRole",
            service="vpc-flow-logs.amazonaws.com",
            permissions=[
                Permission(
                    actions=("logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"),
                    resources=(log_group.attr_arn,),
                )
            ],
        )
        ec2.CfnFlowLog(
            self,
            "VpcFlowLog",
            resource_id=vpc.ref,
            resource_type="VPC",
            traffic_type="ALL",
            log_destination_type="cloud-watch-logs",
            log_group_name=log_group.ref,
            deliver_logs_permission_arn=role.arn,
        )
