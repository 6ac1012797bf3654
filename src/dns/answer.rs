//! What a query is answered: bytes in, bytes out, from one zone held in memory.
//!
//! The wire format is hickory-proto's; the decisions are here. hickory-server was tried and left out: its answers follow
//! whatever size the client claims, a truncated one loses its OPT record, a name without records costs a walk over the
//! whole zone, its TCP connections are unbounded and it logs each query.

use std::collections::HashMap;

use atlas_core::plan::zone::{self, Data, Soa, TTL, Zone};
use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode, emit_message_parts};
use hickory_proto::rr::rdata::{A, AAAA, NS, SOA, SRV};
use hickory_proto::rr::{DNSClass, LowerName, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncoder};

/// Longest UDP message either way, in bytes, whatever a client offers: it passes every usual link in one piece (the
/// default of "DNS flag day 2020"; fragments get lost, and large answers to forged senders are an attack).
pub const UDP_MAX: u16 = 1232;
/// Longest UDP answer to a client without EDNS (RFC 1035 §4.2.1).
const UDP_PLAIN: u16 = 512;
/// Length of an OPT record without options (RFC 6891 §6.1.2).
const OPT_LENGTH: u16 = 11;

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// A zone, ready to be asked.
#[derive(Debug)]
pub struct Answers {
    origin: LowerName,
    soa: Record,
    /// Every name that exists with its records; a name that only has others below it has none (RFC 8020).
    names: HashMap<LowerName, Vec<Record>>,
}

/// Answers a query; `None` if it deserves no answer. Without a zone yet, every question is answered "not now".
pub fn respond(answers: Option<&Answers>, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let header = Header::read(&mut BinDecoder::new(query)).ok()?;
    // Two servers must not answer each other's answers.
    if header.metadata.message_type == MessageType::Response {
        return None;
    }
    let (response, udp_limit) = match parse(query, &header) {
        Ok(query) => (answer(answers, &query), query.max_payload().clamp(UDP_PLAIN, UDP_MAX)),
        Err(code) => (empty(&header.metadata, code), UDP_PLAIN),
    };
    let limit = if transport == Transport::Udp { udp_limit } else { u16::MAX };
    encode(response, limit).inspect_err(|error| tracing::debug!(%error, "cannot encode a DNS answer")).ok()
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

fn empty(query: &Metadata, code: ResponseCode) -> Message {
    let mut response = Message::response(query.id, query.op_code);
    response.metadata = Metadata::response_from_request(query);
    response.metadata.response_code = code;
    response
}

fn answer(answers: Option<&Answers>, query: &Message) -> Message {
    let mut response = empty(&query.metadata, ResponseCode::NoError);
    response.queries.clone_from(&query.queries);
    response.edns = query.edns.as_ref().map(edns);
    if query.version() > 0 {
        response.metadata.response_code = ResponseCode::BADVERS;
        return response;
    }
    match (answers, query.queries.first()) {
        (Some(answers), Some(question)) => answers.answer(question, &mut response),
        _ => response.metadata.response_code = ResponseCode::ServFail,
    }
    response
}

/// The OPT record that answers an OPT record.
fn edns(of_query: &Edns) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_MAX);
    // RFC 3225 §3: copied, also by a server without signatures.
    edns.flags_mut().dnssec_ok = of_query.flags().dnssec_ok;
    edns
}

impl Answers {
    /// Prepares a zone.
    pub fn new(zone: &Zone) -> Result<Self, ProtoError> {
        let origin = Name::from_ascii(&zone.origin)?;
        let soa = Record::from_rdata(origin.clone(), TTL, RData::SOA(soa(&zone.soa())?));
        let mut answers = Self { origin: LowerName::from(&origin), soa: soa.clone(), names: HashMap::new() };
        answers.add(soa);
        for record in &zone.records {
            answers.add(Record::from_rdata(Name::from_ascii(&record.name)?, TTL, rdata(record)?));
        }
        Ok(answers)
    }

    fn add(&mut self, record: Record) {
        let mut name = LowerName::from(&record.name);
        self.names.entry(name.clone()).or_default().push(record);
        while name != self.origin && !name.is_root() {
            name = name.base_name();
            self.names.entry(name.clone()).or_default();
        }
    }

    fn answer(&self, question: &Query, response: &mut Message) {
        let name = LowerName::from(question.name());
        if !self.origin.zone_of(&name) || !served(question) {
            response.metadata.response_code = ResponseCode::Refused;
            return;
        }
        response.metadata.authoritative = true;
        match self.names.get(&name) {
            Some(records) => response.answers = of_question(records, question),
            None => response.metadata.response_code = ResponseCode::NXDomain,
        }
        // With it, that there is nothing may be remembered (RFC 2308).
        if response.answers.is_empty() {
            response.authorities.push(self.soa.clone());
        }
    }
}

/// No other class, and no zone transfers.
fn served(question: &Query) -> bool {
    let class = matches!(question.query_class(), DNSClass::IN | DNSClass::ANY);
    class && !matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR)
}

/// The records asked for, under the name as it was written in the question. No additional records: Thanos asks for
/// addresses by itself, and they would only fill the answer.
fn of_question(records: &[Record], question: &Query) -> Vec<Record> {
    let kind = question.query_type();
    let wanted = records.iter().filter(|record| kind == RecordType::ANY || record.record_type() == kind);
    let named = |record: &Record| Record::from_rdata(question.name().clone(), record.ttl, record.data.clone());
    wanted.map(named).collect()
}

fn soa(soa: &Soa) -> Result<SOA, ProtoError> {
    let (name_server, contact) = (Name::from_ascii(&soa.name_server)?, Name::from_ascii(&soa.contact)?);
    let seconds = |seconds: u32| i32::try_from(seconds).unwrap_or(i32::MAX);
    Ok(SOA::new(name_server, contact, soa.serial, seconds(soa.refresh), seconds(soa.retry), seconds(soa.expire), soa.minimum))
}

fn rdata(record: &zone::Record) -> Result<RData, ProtoError> {
    Ok(match &record.data {
        Data::Ns(name) => RData::NS(NS(Name::from_ascii(name)?)),
        Data::Srv { priority, weight, port, target } => RData::SRV(SRV::new(*priority, *weight, *port, Name::from_ascii(target)?)),
        Data::A(ip) => RData::A(A(*ip)),
        Data::Aaaa(ip) => RData::AAAA(AAAA(*ip)),
    })
}

/// What doesn't fit is left out, and the answer says so.
fn encode(mut response: Message, limit: u16) -> Result<Vec<u8>, ProtoError> {
    let (header, bytes) = emit(&response, limit)?;
    if !header.metadata.truncation {
        return Ok(bytes);
    }
    // The OPT record is written last, yet a truncated answer needs it too (RFC 6891 §7): so as many others as leave room.
    let edns = response.edns.take();
    let (header, _) = emit(&response, limit - OPT_LENGTH)?;
    response.answers.truncate(header.counts.answers.into());
    response.authorities.truncate(header.counts.authorities.into());
    response.metadata.truncation = true;
    response.edns = edns;
    emit(&response, limit).map(|(_, bytes)| bytes)
}

fn emit(response: &Message, limit: u16) -> Result<(Header, Vec<u8>), ProtoError> {
    let mut bytes = Vec::with_capacity(UDP_PLAIN.into());
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    let header = emit_message_parts(
        &response.metadata,
        &mut response.queries.iter(),
        &mut response.answers.iter(),
        &mut response.authorities.iter(),
        &mut response.additionals.iter(),
        response.edns.as_ref(),
        None,
        &mut encoder,
    )?;
    Ok((header, bytes))
}
