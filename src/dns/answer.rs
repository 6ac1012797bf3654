//! Answers queries from one zone in memory: bytes in, bytes out.
//!
//! hickory-proto decodes queries and encodes names and record data. What is answered, and the
//! layout of the message, is decided here. hickory-server isn't used: its answers grow to whatever
//! size the client claims, a truncated answer has no OPT record, and after 120 names it compresses
//! none, so an answer over TCP holds a third fewer stores.

use std::collections::HashMap;

use atlas_core::thanos::zone::{self, RecordData, Soa, TTL, Zone};
use hickory_proto::ProtoError;
use hickory_proto::op::{
    Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query, ResponseCode,
};
use hickory_proto::rr::rdata::{A, AAAA, NS, SOA, SRV};
use hickory_proto::rr::{DNSClass, LowerName, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{
    BinDecodable, BinDecoder, BinEncodable, BinEncoder, NameEncoding,
};

/// Longest UDP message in either direction, in bytes, even if a client offers more. It is the
/// default of "DNS flag day 2020": it passes every usual link in one packet. Fragments get lost,
/// and large answers to forged addresses are an attack on their owners.
pub const MAX_UDP: u16 = 1232;
/// Longest UDP answer to a client without EDNS, in bytes (RFC 1035 §4.2.1).
const MAX_UDP_WITHOUT_EDNS: u16 = 512;
/// Bytes of a message's header.
const HEADER: usize = 12;
/// Pointer to the name right after the header, which is the question's (RFC 1035 §4.1.4).
const POINTER_TO_QUESTION_NAME: [u8; 2] = [0xC0, HEADER as u8];

/// The transport of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// A zone whose records are encoded.
#[derive(Debug)]
pub struct PreparedZone {
    origin: LowerName,
    /// The SOA record with its name, for the authority section.
    soa: Vec<u8>,
    /// The records of every name that exists. A name that only has names below it exists without
    /// records (RFC 8020).
    names: HashMap<LowerName, Vec<PreparedRecord>>,
}

/// An encoded record, without the name at its beginning.
#[derive(Debug)]
struct PreparedRecord {
    kind: RecordType,
    bytes: Vec<u8>,
}

/// An answer that isn't encoded yet.
struct Response<'a> {
    metadata: Metadata,
    question: Option<&'a Query>,
    answers: Vec<&'a [u8]>,
    authority: Option<&'a [u8]>,
    edns: Option<Edns>,
}

/// Answers a query; `None` if it must not be answered. While there is no zone yet, every question
/// is answered with SERVFAIL.
pub fn respond(zone: Option<&PreparedZone>, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let header = Header::read(&mut BinDecoder::new(query)).ok()?;
    // Else two servers could answer each other's answers without end.
    if header.metadata.message_type == MessageType::Response {
        return None;
    }
    let parsed = parse(query, &header);
    let (response, udp_limit) = match &parsed {
        Ok(query) => {
            (answer(zone, query), query.max_payload().clamp(MAX_UDP_WITHOUT_EDNS, MAX_UDP))
        }
        Err(code) => (Response::empty(&header.metadata, *code), MAX_UDP_WITHOUT_EDNS),
    };
    let limit = if transport == Transport::Udp { udp_limit } else { u16::MAX };
    response
        .encode(limit.into())
        .inspect_err(|error| tracing::debug!(%error, "cannot encode a DNS answer"))
        .ok()
}

fn parse(query: &[u8], header: &Header) -> Result<Message, ResponseCode> {
    if header.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    if header.counts.queries != 1 {
        return Err(ResponseCode::FormErr);
    }
    Message::from_vec(query).map_err(|_| ResponseCode::FormErr)
}

fn answer<'a>(zone: Option<&'a PreparedZone>, query: &'a Message) -> Response<'a> {
    let mut response = Response::empty(&query.metadata, ResponseCode::NoError);
    response.question = query.queries.first();
    response.edns = query.edns.as_ref().map(edns);
    match (zone, response.question) {
        _ if query.version() > 0 => response.metadata.response_code = ResponseCode::BADVERS,
        (Some(zone), Some(question)) => zone.answer(question, &mut response),
        _ => response.metadata.response_code = ResponseCode::ServFail,
    }
    response
}

/// The OPT record of the answer to a query with an OPT record.
fn edns(of_query: &Edns) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP);
    // Servers without DNSSEC signatures copy this flag too (RFC 3225 §3).
    edns.flags_mut().dnssec_ok = of_query.flags().dnssec_ok;
    edns
}

impl PreparedZone {
    /// Encodes a zone's records.
    ///
    /// # Errors
    /// A name or a record isn't valid in DNS.
    pub fn new(zone: &Zone) -> Result<Self, ProtoError> {
        let origin = Name::from_ascii(&zone.origin)?;
        let soa = RData::SOA(soa(&zone.soa())?);
        let mut prepared = Self {
            soa: to_bytes(&Record::from_rdata(origin.clone(), TTL, soa.clone()))?,
            origin: LowerName::from(&origin),
            names: HashMap::new(),
        };
        prepared.add(&origin, soa)?;
        for record in &zone.records {
            prepared.add(&Name::from_ascii(&record.name)?, rdata(record)?)?;
        }
        Ok(prepared)
    }

    fn add(&mut self, name: &Name, data: RData) -> Result<(), ProtoError> {
        let mut name = LowerName::from(name);
        self.names.entry(name.clone()).or_default().push(PreparedRecord::new(data)?);
        while name != self.origin && !name.is_root() {
            name = name.base_name();
            self.names.entry(name.clone()).or_default();
        }
        Ok(())
    }

    fn answer<'a>(&'a self, question: &Query, response: &mut Response<'a>) {
        let name = LowerName::from(question.name());
        if !self.origin.zone_of(&name) || !is_served(question) {
            response.metadata.response_code = ResponseCode::Refused;
            return;
        }
        response.metadata.authoritative = true;
        match self.names.get(&name) {
            Some(records) => response.answers = of_kind(records, question.query_type()),
            None => response.metadata.response_code = ResponseCode::NXDomain,
        }
        // With the SOA record a resolver may cache that there is nothing (RFC 2308).
        if response.answers.is_empty() {
            response.authority = Some(&self.soa);
        }
    }
}

/// Whether questions of this class and type are answered. Zone transfers aren't.
fn is_served(question: &Query) -> bool {
    let class = matches!(question.query_class(), DNSClass::IN | DNSClass::ANY);
    class && !matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR)
}

fn of_kind(records: &[PreparedRecord], kind: RecordType) -> Vec<&[u8]> {
    records
        .iter()
        .filter(|record| kind == RecordType::ANY || record.kind == kind)
        .map(|record| record.bytes.as_slice())
        .collect()
}

impl PreparedRecord {
    fn new(data: RData) -> Result<Self, ProtoError> {
        let record = Record::from_rdata(Name::root(), TTL, data);
        // The name of the root is one byte.
        Ok(Self { kind: record.record_type(), bytes: to_bytes(&record)?.split_off(1) })
    }
}

/// Encodes a record without pointers to other names, so that it may be copied anywhere.
fn to_bytes(record: &Record) -> Result<Vec<u8>, ProtoError> {
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    record.emit(&mut encoder)?;
    Ok(bytes)
}

fn soa(soa: &Soa) -> Result<SOA, ProtoError> {
    let (name_server, contact) =
        (Name::from_ascii(&soa.name_server)?, Name::from_ascii(&soa.contact)?);
    let seconds = |seconds: u32| i32::try_from(seconds).unwrap_or(i32::MAX);
    Ok(SOA::new(
        name_server,
        contact,
        soa.serial,
        seconds(soa.refresh),
        seconds(soa.retry),
        seconds(soa.expire),
        soa.minimum,
    ))
}

fn rdata(record: &zone::DnsRecord) -> Result<RData, ProtoError> {
    Ok(match &record.data {
        RecordData::Ns(name) => RData::NS(NS(Name::from_ascii(name)?)),
        RecordData::Srv { priority, weight, port, target } => {
            RData::SRV(SRV::new(*priority, *weight, *port, Name::from_ascii(target)?))
        }
        RecordData::A(ip) => RData::A(A(*ip)),
        RecordData::Aaaa(ip) => RData::AAAA(AAAA(*ip)),
    })
}

impl Response<'_> {
    fn empty(query: &Metadata, code: ResponseCode) -> Self {
        let mut metadata = Metadata::response_from_request(query);
        metadata.response_code = code;
        Self { metadata, question: None, answers: Vec::new(), authority: None, edns: None }
    }

    /// Encodes an answer of at most `limit` bytes. Records that don't fit are left out, and the
    /// header says so; the OPT record always fits (RFC 6891 §7). The additional section has no
    /// addresses: Thanos asks for them separately, and here they would take the room of stores.
    fn encode(mut self, limit: usize) -> Result<Vec<u8>, ProtoError> {
        let opt = self.opt()?;
        let room = limit - opt.len();
        let mut body = self.question.map(BinEncodable::to_bytes).transpose()?.unwrap_or_default();
        let mut counts =
            HeaderCounts { queries: self.question.map_or(0, |_| 1), ..HeaderCounts::default() };
        let mut add = |count: &mut u16, name: &[u8], record: &[u8]| {
            let fits = HEADER + body.len() + name.len() + record.len() <= room;
            if fits {
                body.extend_from_slice(name);
                body.extend_from_slice(record);
                *count += 1;
            }
            fits
        };
        let mut complete = true;
        for answer in self.answers {
            complete = complete && add(&mut counts.answers, &POINTER_TO_QUESTION_NAME, answer);
        }
        if let Some(soa) = self.authority {
            complete = complete && add(&mut counts.authorities, &[], soa);
        }
        self.metadata.truncation = !complete;
        counts.additionals = self.edns.map_or(0, |_| 1);
        let header = Header { metadata: self.metadata, counts }.to_bytes()?;
        Ok([header, body, opt].concat())
    }

    /// The encoded OPT record, which has the upper bits of the response code; empty without EDNS.
    fn opt(&mut self) -> Result<Vec<u8>, ProtoError> {
        let Some(edns) = &mut self.edns else { return Ok(Vec::new()) };
        edns.set_rcode_high(self.metadata.response_code.high());
        Record::from(&*edns).to_bytes()
    }
}
